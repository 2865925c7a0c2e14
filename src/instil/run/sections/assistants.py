"""Section `assistants`: who stands between the teacher and the student."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from instil.core.config import Config
from instil.run.sections.student import StudentConfig
from instil.train.config import LoopConfig


class AssistantConfig(Config):
    """A model that learns from the one above it and teaches the next: made like a `student`, out of the one above; the
    rest as the recipe says for the student itself, its training too unless it has a `loop` of its own."""

    student: StudentConfig
    loop: LoopConfig | None = None

    @model_validator(mode="after")
    def _with_the_teachers_tokens(self) -> Self:
        if self.student.vocabulary or (self.student.scratch and self.student.scratch.tokenizer):
            raise ValueError("an assistant hands on all of the teacher's tokens; give the student itself fewer")
        return self
