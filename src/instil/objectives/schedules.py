"""Values that change over a training run, as functions of progress through its budget. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer, model_validator

from instil.core.config import Config


class Schedule(Config):
    """From `start` to `end` by `until`, a share of the budget, and constant after that. A plain number never changes.

    `shape`: along a line; along half a cosine, slow at both ends; or in `parts` equal stretches, each constant. A
    temperature may be `learned`, anywhere between the same `parts` values (objectives/temperature.py).
    """

    start: float
    end: float
    shape: Literal["linear", "cosine", "steps", "learned"] = "linear"
    until: float = Field(default=1.0, gt=0, le=1)
    parts: PositiveInt = 4

    @classmethod
    def constant(cls, value: float) -> Self:
        """The schedule that stays at `value`."""
        return cls(start=value, end=value)

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, str):
            with suppress(ValueError):
                value = float(value)  # YAML takes 1e-3 for a text.
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"start": value, "end": value}
        if not isinstance(value, Mapping | Schedule):
            raise ValueError("give a number, or a schedule such as {start: 0.9, end: 0.5, shape: cosine}")
        return value

    @model_serializer(mode="wrap")
    def _as_number(self, whole: SerializerFunctionWrapHandler) -> Any:
        return self.start if self.start == self.end else whole(self)

    def __str__(self) -> str:
        return f"{self.start:g}" if self.start == self.end else f"{self.start:g} to {self.end:g} ({self.shape})"

    @property
    def values(self) -> tuple[float, ...] | None:
        """All that it ever is, in turn; None where that is a whole range."""
        if self.start == self.end:
            return (self.start,)
        if self.shape not in ("steps", "learned"):
            return None
        return tuple(self._part(number) for number in range(self.parts))

    @property
    def learned(self) -> bool:
        """Whether it is no function of progress at all, but found in training."""
        return self.shape == "learned" and self.start != self.end

    def _part(self, number: int) -> float:
        way = number / max(self.parts - 1, 1)
        # So that 3 of "4 to 1" is 3, which somebody may have recorded.
        return round(self.start * (1 - way) + self.end * way, 6)

    def at(self, progress: float) -> float:
        """The value when `progress`, in [0, 1], of the budget is spent. `start` and `end` are met exactly."""
        way = min(1.0, progress / self.until)
        if self.shape == "cosine":
            way = 0.5 * (1 - math.cos(math.pi * way))
        elif self.shape == "steps":
            return self._part(min(math.floor(way * self.parts), self.parts - 1))
        return self.start * (1 - way) + self.end * way
