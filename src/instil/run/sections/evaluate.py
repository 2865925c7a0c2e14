"""Section `evaluate`: what is measured."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import NonNegativeInt, PositiveInt, StringConstraints, model_validator

from instil.core.config import Config
from instil.data.prompts import Prompt
from instil.data.records import MAIN_TASK

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
    search over `beams`, latency over `latency_items` of them; where there are several tasks, of `task`. `prompted`:
    systems without training, for the comparison."""

    task: str = MAIN_TASK
    split: Literal["validation", "test"] = "test"
    items: PositiveInt | None = None
    max_new_tokens: PositiveInt = 128
    beams: PositiveInt = 1
    batch_size: PositiveInt = 16
    latency_items: PositiveInt = 30
    prompted: tuple[PromptedConfig, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [each.name for each in self.prompted]
        if twice := next((name for name in names if names.count(name) > 1 or name in SYSTEMS), None):
            raise ValueError(f"prompted calls a system {twice!r}, as another is called; give it a name of its own")
        return self
