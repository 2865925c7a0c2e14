"""Block influence: 1 - cosine similarity of a layer's input and output, averaged over tokens (ShortGPT, Men et al.
2024, arXiv 2403.03853). A layer that hardly turns its input is dropped first.

Shapes: T time, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from instil.core.errors import ModelError
from instil.data.tokens import Encoded
from instil.models.family import Family
from instil.models.layers import Side, stack_of
from instil.models.watching import given_by, read_by, watch


def most_influential(influence: Sequence[float], keep: int) -> tuple[int, ...]:
    """Numbers of the `keep` layers with the highest influence, rising; of equals, the earlier one."""
    require_keep(keep, len(influence))
    ranked = sorted(range(len(influence)), key=lambda index: (-influence[index], index))
    return tuple(sorted(ranked[:keep]))


def require_keep(keep: int, count: int) -> None:
    """Raises `ModelError` unless `keep` of `count` layers can be kept."""
    if not 1 <= keep <= count:
        raise ModelError(f"cannot keep {keep} of {count} layers; give 1 to {count}")


def block_influence(
    model: nn.Module, family: Family, examples: Sequence[Encoded], *, side: Side = "decoder"
) -> tuple[float, ...]:
    """Influence of each layer on `side`, a mean over all tokens of `examples`, in [0, 2]. One example at a time, so
    that no padding counts. Raises `ModelError` without examples."""
    if not examples:
        raise ModelError("block influence needs at least one example; give student.calibration 1 or more")
    layers = stack_of(model, side).layers
    sums = torch.zeros(len(layers), dtype=torch.float64)
    inputs: dict[int, Tensor] = {}

    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[id(layer)] = read_by(args, kwargs)

    def after(number: int) -> Any:
        def hook(layer: nn.Module, _args: Any, output: Any) -> None:
            out_TD = given_by(output).flatten(0, -2).float()
            in_TD = inputs.pop(id(layer)).flatten(0, -2).float()
            turn_T = 1 - torch.cosine_similarity(in_TD, out_TD, dim=-1)
            sums[number] += turn_T.clamp(0, 2).sum().double().cpu()

        return hook

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(after(number)) for number, layer in enumerate(layers)]
    batches = watch(model, family, examples, handles)
    decoded = side == "decoder" and "decoder_input_ids" in batches[0].inputs
    tokens = sum(batch.inputs["decoder_input_ids" if decoded else "input_ids"].numel() for batch in batches)
    return tuple((sums / tokens).tolist())
