"""Where an architecture keeps its stacks of layers, and what its configuration calls their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from instil.core.errors import ModelError
from instil.models.head import describe, unwrap

Side = Literal["encoder", "decoder"]
HAS_POSITIONS = "has_relative_attention_bias"
_PER_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One stack of layers: the modules, their path in the model ("model.layers"), and the config's count of them."""

    layers: nn.ModuleList
    path: str
    config_key: str


def stack_of(model: nn.Module, side: Side = "decoder") -> Stack:
    """The stack on `side` of `model`: the one list of modules that is as long as the config says, whatever its name.

    Raises `ModelError` where it is not found.
    """
    inner: Any = unwrap(model)
    if side == "encoder" and not inner.config.is_encoder_decoder:
        raise ModelError(f"{type(inner).__name__} has no encoder; choose decoder layers only")
    part = inner.get_encoder() if side == "encoder" else inner.get_decoder()
    paths = {module: path for path, module in inner.named_modules()}
    found = [
        Stack(layers=layers, path=paths[layers], config_key=key)
        for layers in part.children()
        if isinstance(layers, nn.ModuleList) and (key := _config_key(inner.config, side, len(layers)))
    ]
    if len(found) != 1:
        raise ModelError(
            f"{describe(inner)}: its {side} layers were not found, so they cannot be cut; choose another architecture"
        )
    return found[0]


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
    with ExitStack() as stays:
        stays.enter_context(_changed(parent, {name: nn.ModuleList(stack.layers[number] for number in kept)}))
        stays.enter_context(_changed(inner.config, shorter))
        stays.enter_context(_lent_positions(stack.layers[0], stack.layers[kept[0]]))
        yield


@contextmanager
def _changed(thing: Any, values: dict[str, Any]) -> Iterator[None]:
    before = {name: getattr(thing, name) for name in values}
    try:
        for name, value in values.items():
            setattr(thing, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)


@contextmanager
def _lent_positions(first: nn.Module, new_first: nn.Module) -> Iterator[None]:
    """T5 keeps the position bias of a whole stack in its first layer; inside, the new first layer has it."""
    owner = next((name for name, part in first.named_modules() if getattr(part, HAS_POSITIONS, False)), None)
    heir: Any = None if owner is None else new_first.get_submodule(owner)
    if owner is None or getattr(heir, HAS_POSITIONS):
        yield
        return
    heir.relative_attention_bias = first.get_submodule(owner).relative_attention_bias
    try:
        with _changed(heir, {HAS_POSITIONS: True}):
            yield
    finally:
        del heir.relative_attention_bias


def _config_key(config: Any, side: Side, count: int) -> str | None:
    """What `config` calls the number of layers on `side`, if that is `count`."""
    names: tuple[str, ...]
    if config.is_encoder_decoder:
        names = ("encoder_layers", "num_layers") if side == "encoder" else ("num_decoder_layers", "decoder_layers")
    else:
        names = ("num_hidden_layers",)
    return next((name for name in names if getattr(config, name, None) == count), None)
