"""Section `evaluate`: what is measured."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from instil.core.config import Config
from instil.data.prompts import Prompt
from instil.data.records import MAIN_TASK
from instil.evaluate.config import DEFAULT_METRICS, MetricName
from instil.models.config import ServedConfig

SystemName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=40)]


class SystemConfig(Config):
    """A further system: a file of its `outputs` (JSONL with ids, or a line for each record), a server's `endpoint`, or
    a `model`: a folder or a hub id."""

    outputs: str | None = None
    endpoint: ServedConfig | None = None
    model: str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.outputs, self.endpoint, self.model)) != 1:
            raise ValueError("a system is one of outputs, endpoint and model; set one of them")
        return self


SYSTEMS = ("teacher", "student", "student_without_teacher", "lead1", "first_words", "nearest_neighbour")
"""What every comparison may hold."""


class PromptedConfig(Config):
    """A system that is asked, not taught: the teacher before `teach`, or the student before it learns, behind `shots`
    examples of the train split; zero-shot without any. `prompt`: another one than the recipe's."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=40)]
    of: Literal["teacher", "student"] = "teacher"
    shots: NonNegativeInt = 0
    prompt: Prompt | None = None


class Examined(Config):
    """How a task is examined: on the first `items` of `split` (all when null), by outputs of at most `max_new_tokens`,
    written by beam search over `beams`.

    `metrics`: what the outputs are judged by, beside ROUGE-1, -2 and -L, which always are (docs/metrics.md).
    `answer`: the pattern whose last match in a text, or that match's first group, is its answer, for `accuracy`.
    `fidelity_items`: examples whose targets teacher and students read, for their loss, calibration and how near they
    are to each other; 0 for none.
    """

    task: str
    split: Literal["validation", "test"] = "test"
    items: PositiveInt | None = None
    max_new_tokens: PositiveInt = 128
    beams: PositiveInt = 1
    metrics: tuple[MetricName, ...] = DEFAULT_METRICS
    answer: str | None = None
    fidelity_items: NonNegativeInt = 50

    @field_validator("answer")
    @classmethod
    def _is_a_pattern(cls, answer: str | None) -> str | None:
        try:
            re.compile(answer or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return answer


class EvaluateConfig(Examined):
    """What is measured, where there are several tasks, of `task`; latency over `latency_items` of its records.

    `also`: further tasks that are examined, each by fields of its own; those that it leaves out are the section's.
    `batch_sizes`: throughput is measured at each, with the energy that an answer takes (counted by the processor, told
    by codecarbon, or estimated from the `watts` that the machine draws) and the price of a million written tokens where
    the machine costs `usd_per_hour`.
    `embedder`: the folder of a model on this machine that `embedding_similarity` reads texts with. `prompted`: systems
    without training, for the comparison. `systems`: what else is held beside teacher and students, by name.
    """

    task: str = MAIN_TASK
    batch_size: PositiveInt = 16
    latency_items: PositiveInt = 30
    batch_sizes: tuple[PositiveInt, ...] = ()
    watts: PositiveFloat | None = None
    usd_per_hour: PositiveFloat | None = None
    embedder: str | None = None
    prompted: tuple[PromptedConfig, ...] = ()
    systems: dict[SystemName, SystemConfig] = Field(default_factory=dict)
    also: tuple[Examined, ...] = ()

    @field_validator("also")
    @classmethod
    def _as_the_section(cls, also: tuple[Examined, ...], info: ValidationInfo) -> tuple[Examined, ...]:
        """Each with the section's value for what it leaves out, so that a resolved recipe says it too."""
        section = {name: info.data[name] for name in Examined.model_fields if name in info.data}
        return tuple(
            each.model_copy(update={name: section[name] for name in section.keys() - each.model_fields_set})
            for each in also
        )

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `also` where it says nothing: older recipes keep their fingerprints."""
        found: dict[str, Any] = dump(self)
        if not self.also:
            found.pop("also", None)
        return found

    @model_validator(mode="after")
    def _tasks_differ(self) -> Self:
        names = [self.task, *(each.task for each in self.also)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"task {twice!r} is examined twice; name each once, in task or in also")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [*(each.name for each in self.prompted), *self.systems]
        if twice := next((name for name in names if names.count(name) > 1 or name in SYSTEMS), None):
            raise ValueError(f"{twice} is the name of a system that is there already; choose another")
        return self

    @model_validator(mode="after")
    def _what_metrics_need(self) -> Self:
        tasks: tuple[Examined, ...] = (self, *self.also)
        for each in tasks:
            of = "" if each is self else f" for task {each.task!r}"
            if "accuracy" in each.metrics and each.answer is None:
                raise ValueError(
                    f"accuracy{of} needs a pattern that finds the answer in a text; set answer, for example"
                    r" answer: 'answer is (\S+)', or measure exact_match"
                )
            if "embedding_similarity" in each.metrics and self.embedder is None:
                raise ValueError(f"embedding_similarity{of} needs a model; set embedder to the folder of one")
        return self
