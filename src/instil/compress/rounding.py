"""Fewer weights or fewer bits as parametrisations: the model runs with what is left of its weights, training changes
the whole ones behind them, and `bake` makes what is left the model's own.

Shape letters: O outputs, I inputs of a matrix, G groups of inputs that share a scale.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from instil.compress.config import CompressConfig
from instil.core.errors import ModelError
from instil.models.head import describe, unwrap
from instil.models.layers import stack_of

GROUP = 32
"""Weights that share a scale in four bits, as in GGUF's q4_0."""


def rounded_int8(weight_OI: Tensor) -> Tensor:
    """Each row in 255 steps, symmetric, the largest at an end: what CTranslate2 makes of it, so it stays as it is."""
    scale_O1 = weight_OI.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(weight_OI.dtype).tiny) / 127
    return (weight_OI / scale_O1).round().clamp(-127, 127) * scale_O1


def rounded_int4(weight_OI: Tensor) -> Tensor:
    """Each 32 weights of a row in 16 steps from -8 to 7, the largest at -8: what q4_0 makes of it, but for its scales
    in half precision."""
    groups_OGI = weight_OI.unflatten(-1, (-1, GROUP))
    largest_OG1 = groups_OGI.gather(-1, groups_OGI.abs().argmax(-1, keepdim=True))
    scale_OG1 = torch.where(largest_OG1 == 0, torch.ones_like(largest_OG1), largest_OG1 / -8)
    return ((groups_OGI / scale_OG1).round().clamp(-8, 7) * scale_OG1).flatten(-2)


def smallest(weight_OI: Tensor, sparsity: float) -> Tensor:
    """The mask, of ones and zeros, that leaves out the smallest weights of a matrix."""
    count = int(weight_OI.numel() * sparsity)
    mask = torch.ones(weight_OI.numel(), dtype=weight_OI.dtype)
    mask[weight_OI.abs().flatten().sort(stable=True).indices[:count]] = 0
    return mask.view_as(weight_OI)


def two_of_four(weight_OI: Tensor) -> Tensor:
    """The mask that leaves out the two smaller of each four inputs."""
    groups_OGI = weight_OI.abs().unflatten(-1, (-1, 4))
    kept_OGI = groups_OGI.sort(dim=-1, descending=True, stable=True).indices[..., :2]
    return torch.zeros_like(groups_OGI).scatter_(-1, kept_OGI, 1.0).flatten(-2)


class _Rounded(nn.Module):
    """Rounds forward; backward, the gradient passes straight through (Bengio et al. 2013, arXiv 1308.3432)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight_OI: Tensor) -> Tensor:
        rounded = rounded_int8(weight_OI) if self.bits == 8 else rounded_int4(weight_OI)
        return weight_OI + (rounded - weight_OI).detach()


class _Masked(nn.Module):
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight_OI: Tensor) -> Tensor:
        return weight_OI * self.mask


def matrices(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of all layers, by name: neither embedding nor head."""
    sides = ("encoder", "decoder") if unwrap(model).config.is_encoder_decoder else ("decoder",)
    paths = tuple(f"{stack_of(model, side).path}." for side in sides)  # type: ignore[arg-type]
    for name, module in unwrap(model).named_modules():
        if isinstance(module, nn.Linear) and name.startswith(paths):
            yield name, module


def compress(model: nn.Module, config: CompressConfig) -> int:
    """Make `model` run on what `config` leaves of its matrices; gives their number of weights.

    Raises `ModelError` for matrices whose rows cannot be grouped so.
    """
    count = 0
    for name, module in list(matrices(model)):
        group = {"int4": GROUP, "2:4": 4}.get(config.method, 1)
        if module.in_features % group:
            raise ModelError(
                f"{describe(model)}: {name} has rows of {module.in_features}, no multiple of {group}; choose another"
                " compress.method than " + config.method
            )
        parametrize.register_parametrization(module, "weight", _left_of(module.weight.detach(), config))
        if config.activations:
            module.register_forward_pre_hook(_round_input)
        count += module.weight.numel()
    if not count:
        raise ModelError(f"{describe(model)} has no linear layers to compress; choose another architecture")
    return count


def _left_of(weight_OI: Tensor, config: CompressConfig) -> nn.Module:
    if config.method in ("int8", "int4"):
        return _Rounded(8 if config.method == "int8" else 4)
    return _Masked(two_of_four(weight_OI) if config.method == "2:4" else smallest(weight_OI, config.sparsity))


def _round_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (hidden,) = inputs
    return (hidden + (rounded_int8(hidden) - hidden).detach(),)


def bake(model: nn.Module) -> None:
    """What is left of the matrices becomes their weights; nothing is rounded any more as the model runs."""
    for _, module in list(matrices(model)):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is _round_input:
                del module._forward_pre_hooks[key]


def packed_bytes(model: nn.Module, config: CompressConfig) -> int:
    """Bytes that the distinct weights of a baked `model` take where they are packed: integers with half-precision
    scales, or the weights that are not zero with a mask of a bit each; all others in 16 bits."""
    own = {id(module.weight): module.weight for _, module in matrices(model)}
    rest = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in own)
    total = 2.0 * rest
    for weight_OI in own.values():
        count, rows = weight_OI.numel(), weight_OI.shape[0]
        if config.method == "int8":
            total += count + 2 * rows
        elif config.method == "int4":
            total += count / 2 + 2 * count / GROUP
        elif config.method == "structured":
            total += 2.0 * count
        else:
            total += 2.0 * int((weight_OI != 0).sum()) + count / 8
    return int(total)
