"""Mending a shortened model in closed form, before any training.

Where layers were dropped, the next kept layer reads another hidden state than it learned to read, and every later
layer passes the error on. From the first cut upwards, the down-projection of each kept layer is refitted by least
squares, so that what leaves the layer comes as close as it can to what the teacher's next kept layer reads. Each layer
is fitted on what the mended layers below it really give. The idea of closing a cut by least squares is ReplaceMe's
(Shopkhoev et al. 2025, arXiv 2505.02819), which fits one square map behind each cut; here the projections themselves
are fitted, with the feed-forward width for features, and all of them, not only those before a cut.

Shapes: T tokens of all examples, D width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from instil.data.tokens import Encoded
from instil.models.family import Family
from instil.models.layers import Side, stack_of
from instil.models.probe import evaluating
from instil.models.watching import FarEnough, given_by, read_by, watch

_DOWN_NAMES = ("mlp.down_proj", "mlp.fc_out", "mlp.c_proj", "DenseReluDense.wo")
_NORMS_AFTER = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""Layers with one of these normalise what the projection gives (Gemma, OLMo 2, GLM), so no least squares fits it."""
_RIDGE = 0.5
"""Pull towards the old weights, relative to the mean square of a feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """One refitted layer, by its number in the teacher: the mean relative squared error of what leaves it, over
    tokens, before and after, the layers below being mended already."""

    layer: int
    error_before: float
    error_after: float


@dataclass(slots=True)
class _Pass:
    """What one layer was called with for each example, beside its hidden states."""

    args: list[tuple[Any, ...]] = field(default_factory=list)
    kwargs: list[dict[str, Any]] = field(default_factory=list)


def mend_cuts(
    student: nn.Module,
    teacher: nn.Module,
    kept: Sequence[int],
    family: Family,
    examples: Sequence[Encoded],
    *,
    side: Side = "decoder",
) -> tuple[Mended, ...]:
    """Refit, in place, the down-projections of `student` from its first cut upwards; the other weights stay.

    `student` has the layers `kept` of `teacher`. Nothing is done without a cut, or where a layer's output is not a sum
    that ends in a linear down-projection (post-norm architectures). The more tokens in `examples`, the better; a few
    thousand do. Costs one forward pass of the teacher and two of the student over `examples`.
    """
    count = len(stack_of(teacher, side).layers)
    ends = [*kept[1:], count]
    cuts = [number for number, (layer, end) in enumerate(zip(kept, ends, strict=True)) if end > layer + 1]
    layers = list(stack_of(student, side).layers)
    if not cuts or any(_down_projection(layer) is None for layer in layers):
        return ()
    first = cuts[0]
    wanted = _outputs(teacher, family, examples, [end - 1 for end in ends[first:]], side)
    passes, hidden = _calls(student, family, examples, first, side)
    mended = []
    with evaluating(student):
        for number in range(first, len(layers)):
            report, hidden = _refit(layers[number], passes[number - first], hidden, wanted[ends[number] - 1])
            mended.append(Mended(layer=kept[number], error_before=report[0], error_after=report[1]))
    return tuple(mended)


def _down_projection(layer: nn.Module) -> nn.Linear | None:
    if any(hasattr(layer, name) for name in _NORMS_AFTER):
        return None
    for name, module in layer.named_modules():
        if name.endswith(_DOWN_NAMES) and isinstance(module, nn.Linear):
            return module
    return None


def _outputs(
    model: nn.Module, family: Family, examples: Sequence[Encoded], numbers: Sequence[int], side: Side
) -> dict[int, Tensor]:
    """What the layers `numbers` give for all tokens of `examples`: `(T, D)` each."""
    parts: dict[int, list[Tensor]] = {number: [] for number in numbers}
    layers = stack_of(model, side).layers

    def keep(number: int) -> Callable[[Any, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            parts[number].append(given_by(output).flatten(0, -2).clone())
            if number == max(parts):
                raise FarEnough

        return hook

    handles = [layers[number].register_forward_hook(keep(number)) for number in parts]
    watch(model, family, examples, handles)
    return {number: torch.cat(tensors) for number, tensors in parts.items()}


def _calls(
    model: nn.Module, family: Family, examples: Sequence[Encoded], first: int, side: Side
) -> tuple[list[_Pass], list[Tensor]]:
    """How the layers from `first` on are called, and the hidden states `(1, T, D)` that `first` reads, by example."""
    layers = list(stack_of(model, side).layers)[first:]
    passes = [_Pass() for _ in layers]
    hidden: list[Tensor] = []

    def keep(number: int) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if number == 0:
                hidden.append(read_by(args, kwargs).clone())
            passes[number].args.append(args[1:])
            passes[number].kwargs.append({name: value for name, value in kwargs.items() if name != "hidden_states"})

        return hook

    handles = [layer.register_forward_pre_hook(keep(number), with_kwargs=True) for number, layer in enumerate(layers)]
    watch(model, family, examples, handles)
    return passes, hidden


def _refit(
    layer: nn.Module, calls: _Pass, hidden: list[Tensor], wanted_TD: Tensor
) -> tuple[tuple[float, float], list[Tensor]]:
    """Refits the layer's down-projection; gives the errors before and after, and what now leaves it, by example."""
    down = _down_projection(layer)
    assert down is not None
    features: list[Tensor] = []
    handle = down.register_forward_pre_hook(lambda _module, args: features.append(args[0].flatten(0, -2).clone()))
    try:
        given = [
            given_by(layer(states, *args, **kwargs))
            for states, args, kwargs in zip(hidden, calls.args, calls.kwargs, strict=True)
        ]
    finally:
        handle.remove()
    features_TF = torch.cat(features)
    missing_TD = wanted_TD - torch.cat([part.flatten(0, -2) for part in given])
    # Each token counts by its relative error: a few tokens have states a thousand times as long as the others.
    weight_T1 = 1 / wanted_TD.square().sum(-1, keepdim=True).clamp_min(1e-12)
    change_DF = _ridge(features_TF, missing_TD, weight_T1).to(down.weight.dtype)
    down.weight.data += change_DF
    # The layer's output is linear in this weight, so what it gives now needs no second pass.
    added_TD = features_TF @ change_DF.T
    errors = [float((part.square() * weight_T1).sum(-1).mean()) for part in (missing_TD, missing_TD - added_TD)]
    parts = added_TD.split([part.shape[-2] for part in given])
    return (errors[0], errors[1]), [old + new for old, new in zip(given, parts, strict=True)]


def _ridge(features_TF: Tensor, missing_TD: Tensor, weight_T1: Tensor) -> Tensor:
    """The change of a projection's weight `(D, F)` that adds most of `missing_TD`, at least cost in its own size."""
    features, missing, weight = features_TF.double(), missing_TD.double(), weight_T1.double()
    weighted_TF = features * weight
    gram_FF = weighted_TF.T @ features
    gram_FF.diagonal().add_(_RIDGE * gram_FF.diagonal().mean())
    return torch.linalg.solve(gram_FF, weighted_TF.T @ missing).T
