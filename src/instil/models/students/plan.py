"""What a student's widths are to be. Imports nothing heavy, since recipes hold it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """A plan: the sizes to have, None where the teacher's stays."""

    hidden: int | None = None
    feed_forward: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
