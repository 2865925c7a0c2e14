"""Section `synthetic`: records that the teacher writes."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from instil.core.config import Config


class SyntheticConfig(Config):
    """Records that the teacher writes, sources and targets, for the student to learn from beside those of the train
    split, or `instead` of them; `records` of them at most.

    Sources: behind what `ask` says and `shots` examples of the train split, other ones each time, drawn at temperature
    `sample`; or, where `texts` names a file, its unlabelled texts, in column `column` where it has columns. Targets:
    the teacher's answers behind `target_shots` examples. Dropped are what `data.clean` drops, what a record of the
    train split or a held-out source holds already, and targets whose perplexity is above `max_perplexity`.
    """

    records: PositiveInt
    texts: str | None = None
    column: str = "source"
    ask: str = "Here are texts of one kind. The last one is new and about something else."
    shots: NonNegativeInt = 3
    sample: PositiveFloat = 1.0
    target_shots: NonNegativeInt = 0
    max_perplexity: float | None = Field(default=None, gt=1)
    tries: PositiveInt = Field(default=3, description="texts asked for, at most, for each record that is wanted")
    instead: bool = False
