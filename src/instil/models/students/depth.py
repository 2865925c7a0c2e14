"""Depth: a student that keeps some of its teacher's layers, chosen by even spacing, by their influence (influence.py)
or greedily by what the loss says (greedy.py)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from instil.core.console import Advance, silent
from instil.core.errors import ModelError
from instil.data.tokens import Encoded
from instil.models.family import Family
from instil.models.head import describe, unwrap
from instil.models.layers import HAS_POSITIONS, Side, config_of_kept, stack_of
from instil.models.students.build import changed_config, new_model
from instil.models.students.greedy import Removal, remove_greedily
from instil.models.students.influence import block_influence, most_influential, require_keep

_PLACES = frozenset((HAS_POSITIONS, "training", "gradient_checkpointing", "layer_idx", "layer_id", "layer_number"))
"""What a layer knows of its place and its mode, beside what it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthReport:
    """What was kept: layer numbers of the teacher; each teacher layer's influence, or the order in which layers went,
    where that was measured."""

    kept: tuple[int, ...]
    layers: int
    influence: tuple[float, ...] = ()
    removed: tuple[Removal, ...] = ()


Choice = Literal["block-influence", "even", "greedy"]


def choose_layers(
    model: nn.Module,
    family: Family,
    examples: Sequence[Encoded],
    keep: int,
    *,
    choice: Choice,
    side: Side = "decoder",
    advance: Advance = silent,
) -> DepthReport:
    """The `keep` layers on `side` that a shorter student of `model` has. Only "even" needs no `examples`.

    `advance` hears how many layers a greedy choice has removed. Raises `ModelError` for a number that cannot be kept.
    """
    count = len(stack_of(model, side).layers)
    if choice == "even":
        return DepthReport(kept=evenly_spaced(count, keep), layers=count)
    if choice == "greedy":
        require_keep(keep, count)
        removed = remove_greedily(model, family, examples, count - keep, side=side, advance=advance)
        gone = {removal.layer for removal in removed}
        return DepthReport(kept=tuple(n for n in range(count) if n not in gone), layers=count, removed=removed)
    influence = block_influence(model, family, examples, side=side)
    return DepthReport(kept=most_influential(influence, keep), layers=count, influence=influence)


def evenly_spaced(count: int, keep: int) -> tuple[int, ...]:
    """`keep` of `count` layer numbers, the first and the last among them."""
    require_keep(keep, count)
    if keep == 1:
        return (0,)
    return tuple(round(index * (count - 1) / (keep - 1)) for index in range(keep))


def keep_layers(model: nn.Module, kept: Sequence[int], *, side: Side = "decoder") -> nn.Module:
    """A new model of the same class with only the layers `kept` on `side`; weights are copied, `model` is untouched.

    Raises `ModelError` for an architecture whose layers cannot be found, or depend on their number in ways unknown.
    """
    inner = unwrap(model)
    stack = stack_of(inner, side)
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < len(stack.layers):
        raise ModelError(f"layers {list(kept)} are not rising numbers from 0 to {len(stack.layers) - 1}")
    student = new_model(inner, changed_config(inner, config_of_kept(inner.config, stack, kept, side)))
    for own, number in zip(stack_of(student, side).layers, kept, strict=True):
        _require_same_kind(own, stack.layers[number], inner)
    weights = {new: tensor for name, tensor in inner.state_dict().items() if (new := _renamed(name, stack.path, kept))}
    student.load_state_dict(weights, strict=True)
    return student


def _require_same_kind(own: nn.Module, original: nn.Module, model: Any) -> None:
    """Some architectures build a layer differently by its number: local or global attention, positions or none. What
    the config says of each layer has travelled along, as far as its names are known; this finds out if that is all."""
    theirs = dict(original.named_modules())
    for name, part in own.named_modules():
        before, after = (_traits(module) for module in (theirs.get(name, part), part))
        if different := [key for key in after if after[key] != before.get(key)]:
            key = different[0]
            raise ModelError(
                f"{describe(model)} builds its layers by their number ({'.'.join(filter(None, (name, key)))} was"
                f" {before.get(key)} in the teacher and is {after[key]} in the student), so they cannot be cut; choose"
                " another architecture"
            )


def _traits(module: nn.Module) -> dict[str, Any]:
    plain = {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
    kept = {key: value for key, value in plain.items() if not key.startswith("_") and key not in _PLACES}
    return {"class": type(module).__name__} | kept


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
