"""Depth: a student that keeps some of its teacher's layers.

Which layers to keep is decided by *block influence*: 1 - cosine similarity of a layer's input and output, averaged
over tokens (ShortGPT, Men et al. 2024, arXiv 2403.03853). A layer that hardly turns its input is dropped first.

Shapes: T time, D width.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from instil.core.errors import ModelError
from instil.data.tokens import Encoded
from instil.models.family import Family
from instil.models.head import unwrap
from instil.models.layers import Side, config_of_kept, stack_of
from instil.models.probe import evaluating


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthReport:
    """What was kept: layer numbers of the teacher, and each teacher layer's influence where it was measured."""

    kept: tuple[int, ...]
    layers: int
    influence: tuple[float, ...] = field(default=())


def evenly_spaced(count: int, keep: int) -> tuple[int, ...]:
    """`keep` of `count` layer numbers, the first and the last among them."""
    _require(keep, count)
    if keep == 1:
        return (0,)
    return tuple(round(index * (count - 1) / (keep - 1)) for index in range(keep))


def most_influential(influence: Sequence[float], keep: int) -> tuple[int, ...]:
    """Numbers of the `keep` layers with the highest influence, rising; of equals, the earlier one."""
    _require(keep, len(influence))
    ranked = sorted(range(len(influence)), key=lambda index: (-influence[index], index))
    return tuple(sorted(ranked[:keep]))


def _require(keep: int, count: int) -> None:
    if not 1 <= keep <= count:
        raise ModelError(f"cannot keep {keep} of {count} layers; give 1 to {count}")


def block_influence(
    model: nn.Module, family: Family, examples: Sequence[Encoded], *, side: Side = "decoder"
) -> tuple[float, ...]:
    """Influence of each layer on `side`, a mean over all tokens of `examples`, in [0, 2]. One example at a time, so
    that no padding counts. Raises `ModelError` without examples."""
    if not examples:
        raise ModelError("block influence needs at least one example; give students.calibration 1 or more")
    layers = stack_of(model, side).layers
    sums = torch.zeros(len(layers), dtype=torch.float64)
    tokens = 0
    inputs: dict[int, Tensor] = {}

    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[id(layer)] = args[0] if args else kwargs["hidden_states"]

    def after(number: int) -> Any:
        def hook(layer: nn.Module, _args: Any, output: Any) -> None:
            out_TD = (output[0] if isinstance(output, tuple) else output).flatten(0, -2).float()
            in_TD = inputs.pop(id(layer)).flatten(0, -2).float()
            turn_T = 1 - torch.cosine_similarity(in_TD, out_TD, dim=-1)
            sums[number] += turn_T.clamp(0, 2).sum().double().cpu()

        return hook

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(after(number)) for number, layer in enumerate(layers)]
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            for example in examples:
                batch = family.collate([example])
                family.rows(model, batch.to(device))
                key = "decoder_input_ids" if side == "decoder" and "decoder_input_ids" in batch.inputs else "input_ids"
                tokens += batch.inputs[key].numel()
    finally:
        for handle in handles:
            handle.remove()
    return tuple((sums / tokens).tolist())


def keep_layers(model: nn.Module, kept: Sequence[int], *, side: Side = "decoder") -> nn.Module:
    """A new model of the same class with only the layers `kept` on `side`; weights are copied, `model` is untouched."""
    inner = unwrap(model)
    stack = stack_of(inner, side)
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < len(stack.layers):
        raise ModelError(f"layers {list(kept)} are not rising numbers from 0 to {len(stack.layers) - 1}")
    config = copy.deepcopy(inner.config)
    for key, value in config_of_kept(inner.config, stack, kept, side).items():
        setattr(config, key, value)
    student = type(inner)(config).to(inner.dtype)
    weights = {new: tensor for name, tensor in inner.state_dict().items() if (new := _renamed(name, stack.path, kept))}
    student.load_state_dict(weights, strict=True)
    student.generation_config = copy.deepcopy(inner.generation_config)
    return student.eval()


def _renamed(name: str, path: str, kept: Sequence[int]) -> str | None:
    """The name of weight `name` in the student, or None for a dropped layer's."""
    match = re.match(rf"{re.escape(path)}\.(\d+)\.(.*)", name)
    if match is None:
        return name
    number, rest = int(match[1]), match[2]
    # T5 keeps the position bias of a whole stack in its first layer. (UMT5 has one in each; the kept layer's own comes
    # later and replaces this.)
    if number == 0 and rest.endswith("relative_attention_bias.weight"):
        return name
    return f"{path}.{kept.index(number)}.{rest}" if number in kept else None
