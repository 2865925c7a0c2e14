"""The form of a comparison: one recipe, and the ways to come by its student."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from instil.core.config import Config
from instil.run.recipe import Name

WayName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$", max_length=40)]


class CompareConfig(Config):
    """`recipe` (its path is relative to this file) says what all ways have in common, `common` changes it for all,
    and each of the `ways` for itself: a mapping from a place, such as `distil.alpha`, to what is to stand there.

    Each way is trained with `seeds` seeds, one run after the other. Differences are to the way called `against`.
    `usd_per_hour`: what the machine costs, if money is to be told.
    """

    name: Name
    recipe: str
    seeds: PositiveInt = 2
    against: WayName
    usd_per_hour: PositiveFloat | None = None
    common: dict[str, Any] = Field(default_factory=dict)
    ways: dict[WayName, dict[str, Any]] = Field(min_length=2)

    @model_validator(mode="after")
    def _against_is_a_way(self) -> Self:
        if self.against not in self.ways:
            raise ValueError(f"against is {self.against!r}, which is none of the ways: {', '.join(self.ways)}")
        return self
