"""Greedy depth: layers go one at a time, each time the one whose removal raises the loss on calibration examples least.

The loss is the forward KL divergence to the whole teacher's distribution, a mean over rows, in nats. It tells more than
the cross-entropy on the few gold tokens: each row compares every word of the vocabulary, so that a few hundred rows
order the layers reliably; it is 0 as long as nothing has changed; and it is what distillation will then lower.

Which layers hurt each other is seen, too, which a measure taken once, such as block influence, cannot tell.

Shapes: N rows, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from instil.core.console import Advance, silent
from instil.core.errors import ModelError
from instil.data.tokens import Encoded
from instil.models.family import Batch, Family
from instil.models.head import Head
from instil.models.layers import Side, only_layers, stack_of
from instil.models.probe import evaluating

_EXAMPLES_TOGETHER = 8
_ROWS_TOGETHER = 256
"""Bounds the memory that logits take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A layer that went, and the loss in nats a row without it and all that went before it."""

    layer: int
    loss: float


def remove_greedily(
    model: nn.Module,
    family: Family,
    examples: Sequence[Encoded],
    number: int,
    *,
    side: Side = "decoder",
    advance: Advance = silent,
) -> tuple[Removal, ...]:
    """The `number` layers on `side` to drop, in the order of their removal. `model` is untouched.

    A layer is tried again only if the harm of its last trial is below that of the best one so far: removing a layer
    rarely hurts less when others are gone. That saves most of the passes; the choice is the exhaustive one as long as
    the rule holds. `advance` is told the number of layers removed. Raises `ModelError` without examples.
    """
    left = list(range(len(stack_of(model, side).layers)))
    if not examples:
        raise ModelError("a greedy choice needs at least one example; give student.calibration 1 or more")
    removed: list[Removal] = []
    harm = dict.fromkeys(left, 0.0)
    with evaluating(model):
        loss_of = _judge(model, family, examples, side)
        for _ in range(number):
            best = _least_harm(left, harm, removed[-1].loss if removed else 0.0, loss_of)
            left.remove(best.layer)
            removed.append(best)
            advance(len(removed), f"without {best.layer}: {best.loss:.3f} nats")
    return tuple(removed)


_LossOf = Callable[[Sequence[int], float], float]
"""The loss of the model with these layers alone; one at or above the second value only says that it is as high."""


def _least_harm(left: Sequence[int], harm: dict[int, float], loss: float, loss_of: _LossOf) -> Removal:
    """The best removal of one of the layers `left`, which have `loss` together. Updates `harm`, what the removal of
    each is known to add at least."""
    best = Removal(layer=-1, loss=math.inf)
    for layer in sorted(left, key=lambda layer: harm[layer]):
        if loss + harm[layer] >= best.loss:
            break
        tried = loss_of([other for other in left if other != layer], best.loss)
        harm[layer] = tried - loss
        if tried < best.loss:
            best = Removal(layer=layer, loss=tried)
    return best


def _judge(model: nn.Module, family: Family, examples: Sequence[Encoded], side: Side) -> _LossOf:
    device = next(model.parameters()).device
    by_length = sorted(examples, key=lambda example: example.length)
    parts = [by_length[first : first + _EXAMPLES_TOGETHER] for first in range(0, len(by_length), _EXAMPLES_TOGETHER)]
    batches: list[tuple[Batch, Tensor, Head]] = []
    for part in parts:
        batch = family.collate(part).to(device)
        rows = family.rows(model, batch)
        batches.append((batch, rows.hidden_ND, rows.head))
    count = sum(len(hidden_ND) for _, hidden_ND, _ in batches)

    def loss_of(kept: Sequence[int], enough: float) -> float:
        total = 0.0
        with only_layers(model, kept, side=side):
            for batch, teacher_ND, head in batches:
                total += _divergence(family.rows(model, batch).hidden_ND, teacher_ND, head)
                if total >= enough * count:
                    break
        return total / count

    return loss_of


def _divergence(hidden_ND: Tensor, teacher_ND: Tensor, head: Head) -> float:
    """KL(teacher || student), a sum over rows, in nats."""
    total = 0.0
    for own_CD, their_CD in zip(hidden_ND.split(_ROWS_TOGETHER), teacher_ND.split(_ROWS_TOGETHER), strict=True):
        own_CV, their_CV = (head.logits(part).float().log_softmax(-1) for part in (own_CD, their_CD))
        total += float(torch.nn.functional.kl_div(own_CV, their_CV, log_target=True, reduction="sum"))
    return max(total, 0.0)
