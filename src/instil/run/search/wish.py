"""What a search is asked for: limits, time, and what may vary. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from instil.core.config import Config
from instil.core.errors import ConfigError

Vocabulary = PositiveInt | Literal["all", "used"]


class Limits(Config):
    """What a student may cost at most: the median `latency_ms` of one text on this machine, distinct `parameters`,
    `bytes` of its weights in fp32, `flops` of a forward pass over a mean example."""

    latency_ms: PositiveFloat | None = None
    parameters: PositiveInt | None = None
    bytes: PositiveInt | None = None
    flops: PositiveFloat | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(
                "no limit, and without one the largest student is the best; give --latency-ms, --max-parameters,"
                " --max-bytes or --max-flops"
            )
        return self


class Choices(Config):
    """The values that may be tried; where none are given, a spread of those that the teacher allows. `hidden` and
    `heads` stay the teacher's then, lest every search have so many more candidates."""

    layers: tuple[PositiveInt, ...] = ()
    encoder_layers: tuple[PositiveInt, ...] = ()
    hidden: tuple[PositiveInt, ...] = ()
    feed_forward: tuple[PositiveInt, ...] = ()
    heads: tuple[PositiveInt, ...] = ()
    vocabulary: tuple[Vocabulary, ...] = ()


class Wish(Config):
    """A whole search: `steps` of recovery for each candidate on stored labels, its loss on `records` held-out ones
    heard `reports` times, until `minutes` are spent, in trials begun before that."""

    limits: Limits
    choices: Choices = Choices()
    minutes: PositiveFloat = 15.0
    steps: PositiveInt = 40
    reports: PositiveInt = 4
    records: PositiveInt = 64
    trials: PositiveInt = Field(default=1000, description="most candidates that are tried")


def numbers(text: str | None, option: str) -> tuple[int | str, ...]:
    """`text` such as "6,12" or "all,used" as values. Raises `ConfigError`."""
    words = [word.strip() for word in (text or "").split(",")] if text else []
    found = [int(word) if word.isdecimal() else word for word in words]
    wrong = [word for word in found if not word or (isinstance(word, str) and option != "--vocabulary")]
    if wrong:
        raise ConfigError(f"{option} {text}: {wrong[0]!r} is no number above 0; write it as {option} 6,12")
    return tuple(dict.fromkeys(found))
