"""The sizes of a model across its layers, and whether a plan for smaller ones fits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from instil.core.errors import ModelError
from instil.models.students.anatomy import Anatomy
from instil.models.students.plan import Widths


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Channels of the residual stream, units of each feed-forward layer, query heads and key-value heads of each
    attention, channels of a head."""

    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    head_size: int

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(self).items())

    def settings(self, config: Any, before: Sizes, anatomy: Anatomy) -> dict[str, int]:
        """What `config`, which says the sizes `before`, has to say of these instead."""
        found = {} if anatomy.head_size is None else {anatomy.head_size: self.head_size}
        for name in ("hidden", "feed_forward", "heads", "key_value_heads"):
            value = getattr(self, name)
            keys: tuple[str, ...] = getattr(anatomy, name)
            found |= {
                key: value for key in keys if value != getattr(before, name) or getattr(config, key, None) is None
            }
        return found


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """The sizes that differ, as a person reads them."""
    different = {name: value for name, value in after.items() if value != before[name]}
    return ", ".join(f"{name.replace('_', ' ')} {before[name]} -> {value}" for name, value in different.items())


def sizes_of(config: Any, anatomy: Anatomy) -> Sizes:
    """The sizes that `config` says; of several, as where encoder and decoder differ, the smallest."""

    def least(keys: tuple[str, ...]) -> int:
        return min((getattr(config, key, None) or 0 for key in keys), default=0)

    hidden, heads = least(anatomy.hidden), least(anatomy.heads)
    return Sizes(
        hidden=hidden,
        feed_forward=least(anatomy.feed_forward) or 4 * hidden,  # GPT-2 and GPT-J
        heads=heads,
        key_value_heads=least(anatomy.key_value_heads) or heads,
        head_size=getattr(config, anatomy.head_size or "", None) or hidden // heads,
    )


def planned(plan: Widths, teacher: Sizes, anatomy: Anatomy) -> Sizes:
    """The sizes of a student cut out of a model of the sizes `teacher`. Raises `ModelError` if they do not fit.

    Key-value heads that the plan leaves out go with their query heads, a whole group at a time where the number of
    heads allows it. Where heads share the hidden size, their number follows from it.
    """
    for name, value in asdict(plan).items():
        if value is not None and not 1 <= value <= getattr(teacher, name):
            raise ModelError(f"width: {name} {value} of {getattr(teacher, name)}; give 1 to {getattr(teacher, name)}")
    found = replace(teacher, **{name: value for name, value in asdict(plan).items() if value is not None})
    if anatomy.head_size is None:
        found = _shared(plan, found)
    return _grouped(plan, teacher, found)


def _shared(plan: Widths, found: Sizes) -> Sizes:
    if plan.hidden is not None and plan.heads is None and not plan.hidden % found.head_size:
        found = replace(found, heads=plan.hidden // found.head_size)
    if found.hidden != found.heads * found.head_size:
        raise ModelError(
            f"width: hidden {found.hidden} is not {found.heads} heads of {found.head_size} channels, and heads of this"
            f" architecture share the hidden size; give heads and hidden = heads x {found.head_size}"
        )
    return found


def _grouped(plan: Widths, teacher: Sizes, found: Sizes) -> Sizes:
    group = teacher.heads // teacher.key_value_heads
    if plan.key_value_heads is None and not found.heads % group:
        found = replace(found, key_value_heads=found.heads // group)
    elif plan.heads is None and plan.key_value_heads is not None:
        found = replace(found, heads=plan.key_value_heads * group)
    if found.heads % found.key_value_heads or found.heads // found.key_value_heads > group:
        raise ModelError(
            f"width: {found.heads} heads cannot share {found.key_value_heads} key-value heads evenly, at most {group}"
            f" each; give heads as a multiple of {group}, or key_value_heads too"
        )
    return found
