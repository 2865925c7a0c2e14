"""Width: a student with fewer hidden channels, feed-forward units and attention heads than its teacher.

The parts that do most on examples stay (importance.py), each weight is gathered along its axes (anatomy.py). Units and
heads are chosen in each layer by itself, hidden channels once for the whole model, since the residual stream joins all.
Heads keep their size, and with it their rotary positions.

Fewer channels change three things that no gathering mends, so they are made up for:
- a norm divides by the root mean square of the channels that are left. Its weight is scaled by what that was, of the
  channels left, relative to all of them, on the examples;
- an architecture may multiply its embeddings by the root of the hidden size, or its logits by a power of it;
- sinusoidal positions are computed from the hidden size. Channels are then chosen one from each of as many equal
  stretches as are to be left, so that each keeps about its frequency.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from instil.core.errors import ModelError
from instil.data.tokens import Encoded
from instil.models.family import Family
from instil.models.head import head_of, unwrap
from instil.models.layers import stack_of
from instil.models.students.anatomy import NEVER_CUT, Anatomy, anatomy_of
from instil.models.students.build import changed_config, new_model
from instil.models.students.importance import Importance, measure_importance
from instil.models.students.plan import Widths
from instil.models.students.reproject import refit_projections
from instil.models.students.sizes import Sizes, planned, sizes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthReport:
    """Sizes of teacher and student, and which share of the importance was kept: of hidden channels, and the mean over
    layers of units and heads."""

    teacher: Sizes
    student: Sizes
    kept_hidden: float
    kept_units: float
    kept_heads: float


def cut_width(
    model: nn.Module, plan: Widths, family: Family, examples: Sequence[Encoded], *, mend: bool = True
) -> tuple[nn.Module, WidthReport]:
    """A new model of the same class with the sizes that `plan` gives; `model` is untouched.

    `mend`: let the units and heads that are left take over from those that went, in closed form (reproject.py).
    Raises `ModelError` for an architecture that is not in the table, and for sizes that do not fit it.
    """
    inner = unwrap(model)
    anatomy = anatomy_of(inner)
    before = sizes_of(inner.config, anatomy)
    after = planned(plan, before, anatomy)
    config = changed_config(inner, after.settings(inner.config, before, anatomy))
    found = measure_importance(inner, family, examples, anatomy, hidden=before.hidden, head_size=before.head_size)
    kept = _choose(found, before, after, anatomy)
    student = new_model(inner, config)
    computed = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    skipped = computed if anatomy.sinusoidal else set()
    whole = inner.state_dict()
    if mend:
        left = kept.projections(inner)
        whole |= refit_projections(inner, family, examples, left, transposed=anatomy.transposed)
    weights = {name: kept.gather(name, tensor) for name, tensor in whole.items() if name not in skipped}
    missing, unexpected = student.load_state_dict(weights, strict=False)
    assert set(missing) == skipped and not unexpected
    if before.hidden != after.hidden:
        _make_up(inner, student, anatomy, found, kept.hidden_D)
    return student, _report(before, after, found, kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Rising indices of what stays: channels for the whole model, the rest by the module that has it."""

    anatomy: Anatomy
    teacher: Sizes
    hidden_D: Tensor
    units: dict[str, Tensor]
    heads: dict[str, Tensor]
    groups: dict[str, Tensor]

    def gather(self, name: str, tensor: Tensor) -> Tensor:
        """The student's part of the weight `name`."""
        place = name.rpartition(".")[0].rpartition(".")[0]
        for axis, words in enumerate(self.anatomy.axes_of(name)):
            if words != NEVER_CUT:
                each = words.split("+")
                parts = tensor.split([self._length(word, tensor.shape[axis] // len(each)) for word in each], axis)
                kept = [self._index(word, place).to(tensor.device) for word in each]
                tensor = torch.cat([part.index_select(axis, k) for part, k in zip(parts, kept, strict=True)], axis)
        return tensor

    def projections(self, model: nn.Module) -> dict[str, Tensor]:
        """The inputs left, by module, of each projection into the residual stream that lost some."""
        found = {}
        for name, parameter in model.named_parameters():
            module = name.rpartition(".")[0]
            axis = 0 if self.anatomy.transposed else -1
            words = self.anatomy.axes_of(name)
            if len(words) == 2 and words[axis] in ("units", "query"):
                index = self._index(words[axis], module.rpartition(".")[0])
                if len(index) < parameter.shape[axis]:
                    found[module] = index
        return found

    def _length(self, word: str, share: int) -> int:
        heads = {"query": self.teacher.heads, "keys": self.teacher.key_value_heads}
        return heads[word] * self.teacher.head_size if word in heads else share

    def _index(self, word: str, place: str) -> Tensor:
        if word == "hidden":
            return self.hidden_D
        if word == "units":
            return self.units[place]
        if word == "heads":
            return self.heads[place]
        numbers = (self.heads if word == "query" else self.groups)[place]
        return (numbers[:, None] * self.teacher.head_size + torch.arange(self.teacher.head_size)).flatten()


def _choose(found: Importance, before: Sizes, after: Sizes, anatomy: Anatomy) -> _Kept:
    hidden_D = (_one_a_stretch if anatomy.sinusoidal else _best)(found.hidden_D, after.hidden)
    more = after.feed_forward < before.feed_forward
    units = {place: _best(score, after.feed_forward if more else len(score)) for place, score in found.units.items()}
    heads, groups = {}, {}
    for place, score in _tied(found.heads, anatomy).items():
        by_group = score.unflatten(0, (before.key_value_heads, -1))
        groups[place] = _best(by_group.sum(-1), after.key_value_heads)
        each = after.heads // after.key_value_heads
        heads[place] = torch.cat([_best(by_group[g], each) + g * by_group.shape[1] for g in groups[place].tolist()])
    return _Kept(anatomy=anatomy, teacher=before, hidden_D=hidden_D, units=units, heads=heads, groups=groups)


def _best(score: Tensor, count: int) -> Tensor:
    """Rising indices of the `count` highest; of equals, the earlier one."""
    return score.sort(descending=True, stable=True).indices[:count].sort().values


def _one_a_stretch(score_D: Tensor, count: int) -> Tensor:
    """The best channel of each of `count` stretches: sines stand in the first half, cosines in the second, either from
    the fastest to the slowest."""
    if count % 2 or len(score_D) % 2:
        raise ModelError(f"width: hidden {count} cannot be halved into sines and cosines; give an even number")
    half = len(score_D) // 2
    edges = [round(number * half / (count // 2)) for number in range(count // 2 + 1)]
    stretches = [(low + start, high + start) for start in (0, half) for low, high in itertools.pairwise(edges)]
    return torch.tensor([low + int(score_D[low:high].argmax()) for low, high in stretches])


def _tied(heads: dict[str, Tensor], anatomy: Anatomy) -> dict[str, Tensor]:
    """Scores by place, those of heads that share a position bias added up over their stack."""
    stack_of_place = {
        place: re.sub(r"\.\d+", "", place) if anatomy.tied_heads and place.endswith(anatomy.tied_heads) else place
        for place in heads
    }
    sums: dict[str, Tensor] = {}
    for place, score in heads.items():
        stack = stack_of_place[place]
        sums[stack] = sums.get(stack, torch.zeros_like(score)) + score / score.sum().clamp_min(1e-30)
    return {place: sums[stack] for place, stack in stack_of_place.items()}


def _make_up(teacher: Any, student: Any, anatomy: Anatomy, found: Importance, hidden_D: Tensor) -> None:
    """Scales norms and embeddings of `student` in place for what its smaller hidden size changes by itself."""
    ratio = len(found.hidden_D) / len(hidden_D)
    last = anatomy.last_norm.format(last=len(stack_of(student).layers) - 1)
    with torch.no_grad():
        for name, energy_D in found.energy.items():
            kept = float(energy_D[hidden_D].sum() / energy_D.sum())
            _scale(student.get_submodule(name).weight, math.sqrt(ratio * kept), anatomy.gain)
        after_norm = head_of(teacher).scale / head_of(student).scale
        if anatomy.scaled(student.config):
            embeddings = {module.weight for name, module in student.named_modules() if name.endswith(_EMBEDDINGS)}
            for weight in embeddings:
                weight.mul_(math.sqrt(ratio))
            if student.get_output_embeddings().weight in embeddings:
                after_norm /= math.sqrt(ratio)
        norm = student.get_submodule(last)
        _scale(norm.weight, after_norm, anatomy.gain)
        if getattr(norm, "bias", None) is not None:
            norm.bias.mul_(after_norm)


_EMBEDDINGS = ("embed_tokens", "shared")


def _scale(weight: Tensor, factor: float, gain: float) -> None:
    weight.add_(gain).mul_(factor).sub_(gain)


def _report(before: Sizes, after: Sizes, found: Importance, kept: _Kept) -> WidthReport:
    def share(scores: dict[str, Tensor], indices: dict[str, Tensor]) -> float:
        shares = [float(scores[place][index].sum() / scores[place].sum()) for place, index in indices.items()]
        return sum(shares) / len(shares)

    return WidthReport(
        teacher=before, student=after,
        kept_hidden=share({"": found.hidden_D}, {"": kept.hidden_D}),
        kept_units=share(found.units, kept.units),
        kept_heads=share(found.heads, kept.heads),
    )  # fmt: skip
