"""Where a layer keeps its attention, and what the parts of it are called."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import nn

from instil.core.errors import ModelError
from instil.models.head import describe, unwrap
from instil.models.watching import Spot

Projected = Literal["queries", "keys", "values"]
_CROSS = ("encoder_attn", "EncDecAttention", "cross")
_FUSED = ("qkv_proj", "c_attn")
_VALUES = ("v_proj", "v", *_FUSED)
_OUT = ("o_proj", "c_proj", "out_proj", "o")


def attention_of(model: nn.Module, layer: nn.Module, *, cross: bool = False) -> nn.Module:
    """The attention of `layer` to its own sequence, or with `cross` to the encoder's. Raises `ModelError` where there
    is none that is made like its kin."""
    for name, module in layer.named_modules():
        if any(hasattr(module, child) for child in _VALUES) and cross == any(part in name for part in _CROSS):
            return module
    kind = "attention to an encoder" if cross else "attention"
    raise ModelError(f"{describe(unwrap(model))}: no {kind} was found in its layers; match hidden states instead")


def projection(attention: nn.Module, which: Projected) -> Spot:
    """Where the queries, keys or values of all heads of `attention` are seen, side by side, before any rotation."""
    for child in (f"{which[0]}_proj", which[0]):
        if hasattr(attention, child):
            return Spot(module=getattr(attention, child))
    fused = next(getattr(attention, child) for child in _FUSED if hasattr(attention, child))
    out = next(getattr(attention, child) for child in _OUT if hasattr(attention, child))
    queries, every = _widths(out)[0], _widths(fused)[1]
    keys = (every - queries) // 2
    starts = {"queries": 0, "keys": queries, "values": queries + keys}
    ends = {"queries": queries, "keys": queries + keys, "values": every}
    return Spot(module=fused, channels=slice(starts[which], ends[which]))


def _widths(layer: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer; GPT-2's has neither name for them."""
    if hasattr(layer, "in_features"):
        return int(layer.in_features), int(layer.out_features)
    inputs, outputs = layer.weight.shape
    return int(inputs), int(outputs)


def show_attention(model: nn.Module) -> None:
    """Have `model` compute its attention so that the weights are seen, which only transformers' eager attention lets
    them be. Raises `ModelError` for a model that cannot."""
    inner: Any = unwrap(model)
    inner.set_attn_implementation("eager")
    if inner.config._attn_implementation != "eager":
        raise ModelError(
            f"{describe(inner)} cannot be switched to eager attention, and no other shows its weights; match values"
            " instead"
        )


def shared_heads(one: nn.Module, other: nn.Module, which: Projected) -> int:
    """The greatest number of groups that the heads of both models, side by side, can be cut into."""
    return math.gcd(*(_heads(unwrap(model).config, which) for model in (one, other)))


def _heads(config: Any, which: Projected) -> int:
    few = None if which == "queries" else getattr(config, "num_key_value_heads", None)
    return int(few or config.num_attention_heads)
