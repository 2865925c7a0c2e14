"""Values that change over a training run, as functions of progress through its budget. No torch here."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, PositiveInt

from instil.core.config import Config


class Schedule(Config):
    """From `start` to `end` by `until`, a share of the budget, and constant after that.

    `shape`: along a line; along half a cosine, slow at both ends; or in `parts` equal stretches, each constant.
    """

    start: float
    end: float
    shape: Literal["linear", "cosine", "steps"] = "linear"
    until: float = Field(default=1.0, gt=0, le=1)
    parts: PositiveInt = 4

    def at(self, progress: float) -> float:
        """The value when `progress`, in [0, 1], of the budget is spent. `start` and `end` are met exactly."""
        way = min(1.0, progress / self.until)
        if self.shape == "cosine":
            way = 0.5 * (1 - math.cos(math.pi * way))
        elif self.shape == "steps":
            way = min(math.floor(way * self.parts), self.parts - 1) / max(self.parts - 1, 1)
        return self.start * (1 - way) + self.end * way


def value_at(value: float | Schedule, progress: float) -> float:
    """The value of a number or a schedule at `progress`."""
    return value.at(progress) if isinstance(value, Schedule) else value


def ends_of(value: float | Schedule) -> tuple[float, float]:
    """The values between which it stays."""
    return (value.start, value.end) if isinstance(value, Schedule) else (value, value)
