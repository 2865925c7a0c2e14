"""How much each hidden channel, feed-forward unit and attention head does, measured on examples.

As in Minitron (Muralidharan et al. 2024, arXiv 2407.14679), activations decide, no gradients. A hidden channel counts
by the size of what the norms give of it to the layers, each norm's outputs taken as shares. Units and heads count by
what they add to the residual stream: the size of a unit's activation, or a head's output, *after* the projection that
it goes through. Minitron leaves the projection out, so that a loud unit counts that nothing listens to.

Shapes: T tokens, D hidden channels, G units or heads, E channels of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from instil.core.errors import ModelError
from instil.data.tokens import Encoded
from instil.models.family import Family
from instil.models.students.anatomy import Anatomy
from instil.models.watching import watch


@dataclass(frozen=True, slots=True)
class Importance:
    """Sums over tokens. `hidden_D` of shape `(D,)`; `units` and `heads` of shape `(G,)`, by the name of the module that
    has them. `energy`: by norm, each channel's share of the mean square that it divides by, shape `(D,)`."""

    hidden_D: Tensor
    units: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    energy: dict[str, Tensor] = field(default_factory=dict)


def measure_importance(
    model: nn.Module, family: Family, examples: Sequence[Encoded], anatomy: Anatomy, *, hidden: int, head_size: int
) -> Importance:
    """What `examples` make the parts of `model` do. One example at a time, so that no padding counts.

    Raises `ModelError` without examples.
    """
    if not examples:
        raise ModelError("cutting the width needs at least one example; give student.calibration 1 or more")
    found = Importance(torch.zeros(hidden, dtype=torch.float64))
    handles = []
    for name, module in model.named_modules():
        if hook := _hook(name, module, anatomy, found, head_size):
            handles.append(module.register_forward_hook(hook))
    watch(model, family, examples, handles)
    return found


_Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


def _hook(name: str, module: nn.Module, anatomy: Anatomy, found: Importance, head_size: int) -> _Hook | None:
    """What listens to `module`: norms of the residual stream, and the projections back into it."""
    if not isinstance(getattr(module, "weight", None), Tensor):
        return None
    axes = anatomy.axes_of(f"{name}.weight")
    if axes == ["hidden"]:
        return _norm_hook(name, found, centred=isinstance(module, nn.LayerNorm))
    source = axes[0 if anatomy.transposed else -1]
    place = name.rpartition(".")[0]
    if source == "units":
        return _sum_hook(found.units, place, _weight(module, anatomy), 1)
    return _sum_hook(found.heads, place, _weight(module, anatomy), head_size) if source == "query" else None


def _weight(module: Any, anatomy: Anatomy) -> Tensor:
    """The weight of a projection with its outputs first."""
    weight: Tensor = module.weight.detach()
    return weight.T if anatomy.transposed else weight


def _norm_hook(name: str, found: Importance, *, centred: bool) -> _Hook:
    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        read_TD, given_TD = args[0].flatten(0, -2).double(), output.flatten(0, -2).abs().double()
        if centred:
            read_TD = read_TD - read_TD.mean(-1, keepdim=True)
        found.hidden_D.add_(_shares(given_TD).cpu())
        _add(found.energy, name, _shares(read_TD.square()).cpu())

    return hook


def _shares(parts_TD: Tensor) -> Tensor:
    """The sum over tokens of each channel's share of its token."""
    return (parts_TD / parts_TD.sum(-1, keepdim=True).clamp_min(1e-30)).sum(0)


def _sum_hook(sums: dict[str, Tensor], place: str, weight: Tensor, size: int) -> _Hook:
    """`size` inputs of the projection together are one unit or one head."""
    weight_DGE = weight.unflatten(1, (-1, size)).float()
    gram_GEE = torch.einsum("dge,dgf->gef", weight_DGE, weight_DGE)

    def hook(_module: nn.Module, args: tuple[Any, ...], _output: Any) -> None:
        parts_TGE = args[0].flatten(0, -2).unflatten(-1, (-1, size)).float()
        squares_TG = torch.einsum("tge,gef,tgf->tg", parts_TGE, gram_GEE, parts_TGE)
        _add(sums, place, squares_TG.clamp_min(0).sqrt().sum(0).double().cpu())

    return hook


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value
