"""Where an architecture keeps its stacks of layers, and what its configuration calls their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from instil.core.errors import ModelError
from instil.models.head import unwrap

Side = Literal["encoder", "decoder"]
_STACK_NAMES = ("layers", "block", "h")
_PER_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One stack of layers: the modules, their path in the model ("model.layers"), and the config's count of them."""

    layers: nn.ModuleList
    path: str
    config_key: str


def stack_of(model: nn.Module, side: Side = "decoder") -> Stack:
    """The stack on `side` of `model`. Raises `ModelError` where it is not found."""
    inner: Any = unwrap(model)
    if side == "encoder" and not inner.config.is_encoder_decoder:
        raise ModelError(f"{type(inner).__name__} has no encoder; choose decoder layers only")
    part = inner.get_encoder() if side == "encoder" else inner.get_decoder()
    for name in _STACK_NAMES:
        layers = getattr(part, name, None)
        if isinstance(layers, nn.ModuleList):
            path = next(path for path, module in inner.named_modules() if module is layers)
            return Stack(layers=layers, path=path, config_key=_config_key(inner.config, side, len(layers)))
    raise ModelError(f"{type(inner).__name__} ({inner.config.model_type}): its {side} layers were not found")


def config_of_kept(config: Any, stack: Stack, kept: Sequence[int], side: Side) -> dict[str, Any]:
    """What `config` has to say, by key, of a model with only the layers `kept` on `side`: their number, and what it
    says of each layer (sliding or full attention, positions or none), which travels with the layer."""
    values: dict[str, Any] = {stack.config_key: len(kept)}
    for name in _PER_LAYER:
        each = getattr(config, name, None)
        if each and not (config.is_encoder_decoder and side == "encoder"):
            values[name] = [each[index] for index in kept]
    return values


@contextmanager
def only_layers(model: nn.Module, kept: Sequence[int], *, side: Side = "decoder") -> Iterator[None]:
    """Inside, `model` runs with only the layers `kept` on `side`; no weight is copied. It must not generate there:
    layers know their places in the cache by the whole model's numbers."""
    inner: Any = unwrap(model)
    stack = stack_of(inner, side)
    parent = inner.get_submodule(stack.path.rpartition(".")[0])
    name = stack.path.rpartition(".")[2]
    shorter = config_of_kept(inner.config, stack, kept, side)
    before = {key: getattr(inner.config, key) for key in shorter}
    try:
        setattr(parent, name, nn.ModuleList(stack.layers[number] for number in kept))
        for key, value in shorter.items():
            setattr(inner.config, key, value)
        yield
    finally:
        setattr(parent, name, stack.layers)
        for key, value in before.items():
            setattr(inner.config, key, value)


def _config_key(config: Any, side: Side, count: int) -> str:
    names: tuple[str, ...]
    if config.is_encoder_decoder:
        names = ("encoder_layers", "num_layers") if side == "encoder" else ("decoder_layers", "num_decoder_layers")
    else:
        names = ("num_hidden_layers",)
    for name in names:
        if getattr(config, name, None) == count:
            return name
    raise ModelError(f"{config.model_type}: its config does not say that it has {count} {side} layers")
