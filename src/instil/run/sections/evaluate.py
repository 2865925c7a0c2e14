"""Section `evaluate`: what is measured."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import NonNegativeInt, PositiveInt, StringConstraints, field_validator, model_validator

from instil.core.config import Config
from instil.data.prompts import Prompt
from instil.data.records import MAIN_TASK
from instil.evaluate.config import DEFAULT_METRICS, MetricName

SYSTEMS = ("teacher", "student", "student_without_teacher", "lead1", "first_words", "nearest_neighbour")
"""What every comparison may hold."""


class PromptedConfig(Config):
    """A system that is asked, not taught: the teacher before `teach`, or the student before it learns, behind `shots`
    examples of the train split; zero-shot without any. `prompt`: another one than the recipe's."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=40)]
    of: Literal["teacher", "student"] = "teacher"
    shots: NonNegativeInt = 0
    prompt: Prompt | None = None


class EvaluateConfig(Config):
    """What is measured: the first `items` of `split` (all when not given), outputs of at most `max_new_tokens` by beam
    search over `beams`, latency over `latency_items` of them; where there are several tasks, of `task`.

    `metrics`: what the outputs are judged by, beside ROUGE-1, -2 and -L, which always are (docs/metrics.md).
    `answer`: the pattern whose last match in a text, or that match's first group, is its answer, for `accuracy`.
    `fidelity_items`: examples whose targets teacher and students read, for their loss, calibration and how near they
    are to each other; 0 for none. `prompted`: systems without training, for the comparison.
    """

    task: str = MAIN_TASK
    split: Literal["validation", "test"] = "test"
    items: PositiveInt | None = None
    max_new_tokens: PositiveInt = 128
    beams: PositiveInt = 1
    batch_size: PositiveInt = 16
    latency_items: PositiveInt = 30
    metrics: tuple[MetricName, ...] = DEFAULT_METRICS
    answer: str | None = None
    fidelity_items: NonNegativeInt = 50
    prompted: tuple[PromptedConfig, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [each.name for each in self.prompted]
        if twice := next((name for name in names if names.count(name) > 1 or name in SYSTEMS), None):
            raise ValueError(f"prompted calls a system {twice!r}, as another is called; give it a name of its own")
        return self

    @field_validator("answer")
    @classmethod
    def _is_a_pattern(cls, answer: str | None) -> str | None:
        try:
            re.compile(answer or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return answer

    @model_validator(mode="after")
    def _answers_are_found(self) -> Self:
        if "accuracy" in self.metrics and self.answer is None:
            raise ValueError(
                "accuracy needs a pattern that finds the answer in a text; set answer, for example"
                r" answer: 'answer is (\S+)', or measure exact_match"
            )
        return self
