"""Mending widths in closed form: the inputs of a projection that are left take over, as far as they can, what those
that went used to give.

A feed-forward unit or an attention head seldom does something that no other does. With features X of the inputs on
examples, K those kept and G = X'X, the change of the projection's weight that adds most of what is missing is

    (G_KK + ridge)^-1 G_K,rest W_rest

so that only G is needed, whatever the number of tokens. Measured on SmolLM2 135M (48 examples; divergence from the
teacher in nats a token, on 12 others): without half of the feed-forward units 0.87, with this 0.54.

Shapes: T tokens, F inputs, K kept inputs, D outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from instil.data.tokens import Encoded
from instil.models.family import Family
from instil.models.watching import watch

_RIDGE = 0.1
"""Pull towards the old weights, relative to the mean square of a kept input. From 0.02 to 0.5 little changes."""
_NUMBERS_TOGETHER = 1 << 29
"""Entries of all G that are held at a time, 2 GB; a larger model is passed several times."""


def refit_projections(
    model: nn.Module,
    family: Family,
    examples: Sequence[Encoded],
    kept: Mapping[str, Tensor],
    *,
    transposed: bool,
) -> dict[str, Tensor]:
    """The weights of the projections `kept`, by name, changed where their kept inputs are; the rest is as before.

    `kept`: rising indices of each projection's inputs, by the name of its module. `transposed`: weights are stored
    inputs first. `model` is untouched.
    """
    found = {}
    for names in _parts(model, kept, transposed):
        for name, gram_KF in _grams(model, family, examples, {name: kept[name] for name in names}).items():
            weight: Any = model.get_submodule(name).weight
            weight_FD = weight.detach() if transposed else weight.detach().T
            changed_FD = weight_FD.clone()
            changed_FD[kept[name]] += _missing(gram_KF, kept[name], weight_FD).to(weight.dtype)
            found[f"{name}.weight"] = changed_FD if transposed else changed_FD.T.contiguous()
    return found


def _parts(model: nn.Module, kept: Mapping[str, Tensor], transposed: bool) -> Iterator[list[str]]:
    """Names of projections whose G fit into memory together."""
    part: list[str] = []
    numbers = 0
    for name, index in kept.items():
        weight: Any = model.get_submodule(name).weight
        own = len(index) * int(weight.shape[0 if transposed else 1])
        if part and numbers + own > _NUMBERS_TOGETHER:
            yield part
            part, numbers = [], 0
        part.append(name)
        numbers += own
    if part:
        yield part


def _grams(
    model: nn.Module, family: Family, examples: Sequence[Encoded], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Of each projection, the products of its kept inputs with all of them, `(K, F)`, summed over tokens."""
    sums: dict[str, Tensor] = {}

    def adds(name: str, index_K: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            features_TF = args[0].flatten(0, -2).float()
            products_KF = features_TF[:, index_K].T @ features_TF
            sums[name] = sums[name].add_(products_KF) if name in sums else products_KF

        return hook

    device = next(model.parameters()).device
    handles = [
        model.get_submodule(name).register_forward_pre_hook(adds(name, index.to(device)))
        for name, index in kept.items()
    ]
    watch(model, family, examples, handles)
    return sums


def _missing(gram_KF: Tensor, index_K: Tensor, weight_FD: Tensor) -> Tensor:
    """The change `(K, D)` of the kept inputs' weights."""
    gram, weight = gram_KF.double(), weight_FD.double()
    gone = torch.ones(gram.shape[1], dtype=torch.bool)
    gone[index_K] = False
    own_KK = gram[:, index_K].clone()
    own_KK.diagonal().add_(_RIDGE * own_KK.diagonal().mean().clamp_min(1e-12))
    return torch.linalg.solve(own_KK, gram[:, gone] @ weight[gone])
