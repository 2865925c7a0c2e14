"""Mending the cuts of a shortened model in closed form, before any training.

Where layers were dropped after a kept one, the next kept layer suddenly reads another hidden state than it learned to.
The down-projection of the kept layer is refitted by least squares, so that what leaves it comes as close as it can to
what the teacher's next kept layer reads. The idea is ReplaceMe's (Shopkhoev et al. 2025, arXiv 2505.02819), which fits
a square map after the projection; here the projection itself is fitted, which has the feed-forward width for features,
and cuts are mended from the input upwards, each on what the mended layers below it really give.

Shapes: T tokens of all examples, D width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from instil.data.tokens import Encoded
from instil.models.family import Family
from instil.models.layers import Side, stack_of
from instil.models.probe import evaluating

_DOWN_NAMES = ("mlp.down_proj", "mlp.fc_out", "mlp.c_proj", "DenseReluDense.wo")
_NORMS_AFTER = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""Layers with one of these normalise what the projection gives (Gemma, OLMo 2, GLM), so no least squares fits it."""
_RIDGE = 0.01
"""Pull towards the old weights, relative to the mean square of a feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """One cut: the teacher's layer before it, and the mean relative squared error before and after, over tokens."""

    after_layer: int
    error_before: float
    error_after: float


def mend_cuts(
    student: nn.Module,
    teacher: nn.Module,
    kept: Sequence[int],
    family: Family,
    examples: Sequence[Encoded],
    *,
    side: Side = "decoder",
) -> tuple[Mended, ...]:
    """Refit, in place, the down-projection of each layer of `student` that has a cut behind it.

    `student` has the layers `kept` of `teacher`. Layers whose output is not a sum that ends in a linear
    down-projection (post-norm architectures) are left as they are. The more tokens in `examples`, the better;
    a few thousand do.
    """
    count = len(stack_of(teacher, side).layers)
    ends = [*kept[1:], count]
    cuts = [number for number, (layer, end) in enumerate(zip(kept, ends, strict=True)) if end > layer + 1]
    cuts = [number for number in cuts if _down_projection(stack_of(student, side).layers[number]) is not None]
    wanted = _outputs(teacher, family, examples, [ends[number] - 1 for number in cuts], side)
    return tuple(
        _mend(student, family, examples, number, wanted[ends[number] - 1], kept[number], side) for number in cuts
    )


def _down_projection(layer: nn.Module) -> nn.Linear | None:
    if any(hasattr(layer, name) for name in _NORMS_AFTER):
        return None
    for name, module in layer.named_modules():
        if name.endswith(_DOWN_NAMES) and isinstance(module, nn.Linear):
            return module
    return None


class _FarEnough(Exception):
    """Ends a forward pass behind the last layer that is asked for."""


def _run(model: nn.Module, family: Family, examples: Sequence[Encoded]) -> None:
    device = next(model.parameters()).device
    with evaluating(model):
        for example in examples:
            with suppress(_FarEnough):
                family.rows(model, family.collate([example]).to(device))


def _hidden(output: Any) -> Tensor:
    return (output[0] if isinstance(output, tuple) else output).flatten(0, -2)


def _outputs(
    model: nn.Module, family: Family, examples: Sequence[Encoded], numbers: Sequence[int], side: Side
) -> dict[int, Tensor]:
    """What the layers `numbers` give for all tokens of `examples`: `(T, D)` each."""
    parts: dict[int, list[Tensor]] = {number: [] for number in numbers}
    layers = stack_of(model, side).layers

    def keep(number: int) -> Callable[[Any, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            parts[number].append(_hidden(output).clone())
            if number == max(parts):
                raise _FarEnough

        return hook

    handles = [layers[number].register_forward_hook(keep(number)) for number in parts]
    try:
        _run(model, family, examples)
    finally:
        for handle in handles:
            handle.remove()
    return {number: torch.cat(tensors) for number, tensors in parts.items()}


def _mend(
    student: nn.Module,
    family: Family,
    examples: Sequence[Encoded],
    number: int,
    wanted_TD: Tensor,
    after_layer: int,
    side: Side,
) -> Mended:
    layer = stack_of(student, side).layers[number]
    down = _down_projection(layer)
    assert down is not None
    features: list[Tensor] = []
    handle = down.register_forward_pre_hook(lambda _module, args: features.append(args[0].flatten(0, -2).clone()))
    try:
        given_TD = _outputs(student, family, examples, [number], side)[number]
    finally:
        handle.remove()
    features_TF = torch.cat(features)
    missing_TD = wanted_TD - given_TD
    # Each token counts by its relative error: a few tokens have states a thousand times as long as the others.
    weight_T1 = 1 / wanted_TD.square().sum(-1, keepdim=True).clamp_min(1e-12)
    change_DF = _ridge(features_TF, missing_TD, weight_T1)
    with torch.no_grad():
        down.weight += change_DF.to(down.weight.dtype)
    left_TD = missing_TD - features_TF @ change_DF.T.to(features_TF.dtype)
    before, after = (float((part.square() * weight_T1).sum(-1).mean()) for part in (missing_TD, left_TD))
    return Mended(after_layer=after_layer, error_before=before, error_after=after)


def _ridge(features_TF: Tensor, missing_TD: Tensor, weight_T1: Tensor) -> Tensor:
    """The change of a projection's weight `(D, F)` that adds most of `missing_TD`, at least cost in its own size."""
    features, missing, weight = features_TF.double(), missing_TD.double(), weight_T1.double()
    weighted_TF = features * weight
    gram_FF = weighted_TF.T @ features
    gram_FF.diagonal().add_(_RIDGE * gram_FF.diagonal().mean())
    return torch.linalg.solve(gram_FF, weighted_TF.T @ missing).T
