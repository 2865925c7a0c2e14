"""A recipe: everything about one distillation, from data to report, in one YAML file of frozen sections.

The command line may change any value with `--set section.key=value`; what ran is saved, resolved, with each artifact.
"""

from __future__ import annotations

from typing import Annotated, Self

import yaml
from pydantic import PositiveInt, StringConstraints, model_validator

from instil.core.config import Config
from instil.data.config import DataConfig
from instil.data.prompts import Prompt
from instil.run.sections.distil import DistilConfig
from instil.run.sections.evaluate import EvaluateConfig
from instil.run.sections.labels import LabelsConfig
from instil.run.sections.student import StudentConfig
from instil.run.sections.teacher import TeacherConfig

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


class LimitsConfig(Config):
    """The longest source and target, in the model's tokens; what is longer is cut, counted and reported."""

    source: PositiveInt = 512
    target: PositiveInt = 128


class Recipe(Config):
    """The whole recipe. Sections without which a stage cannot run are missed by that stage alone."""

    name: Name
    seed: int = 42
    runs_dir: str = "runs"
    data: DataConfig
    prompt: Prompt = Prompt()
    limits: LimitsConfig = LimitsConfig()
    teacher: TeacherConfig
    labels: LabelsConfig = LabelsConfig()
    student: StudentConfig | None = None
    distil: DistilConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    accept_licences: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _student_to_distil(self) -> Self:
        if self.distil and not self.student:
            raise ValueError("distil has nobody to train; add a student section, for example student: {layers: 12}")
        return self

    @model_validator(mode="after")
    def _server_can_tell(self) -> Self:
        labels = self.labels
        if self.teacher.served and self.distil and self.distil.features:
            raise ValueError("a served teacher shows no hidden states; leave distil.features out")
        if self.teacher.served and (labels.temperatures != (1.0,) or labels.detail != "default"):
            raise ValueError(
                "a served teacher tells its first ids at temperature 1; leave labels.detail and labels.temperatures out"
            )
        if self.teacher.served and labels.beams > 1:
            raise ValueError("labels.beams is for a teacher in memory; a served one writes greedily, or draws: sample")
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        own_tokens = self.student and self.student.scratch and self.student.scratch.tokenizer
        if own_tokens and self.distil and self.distil.learns_from_labels and self.distil.tokens == "same":
            raise ValueError(
                "student.scratch.tokenizer gives the student tokens of its own, which labels do not fit; learn from"
                " the teacher's texts, distil.alpha: 0 and labels.targets: teacher, or by rank, distil.tokens: aligned,"
                " or leave tokenizer out"
            )
        return self

    @model_validator(mode="after")
    def _temperatures_agree(self) -> Self:
        recorded = self.labels.temperatures
        asked = self.distil.temperatures if self.distil and self.distil.learns_from_labels else ()
        if missing := [each for each in asked if each not in recorded]:
            raise ValueError(
                f"distil.temperature is {missing[0]:g} but labels.temperatures has"
                f" {', '.join(f'{each:g}' for each in recorded)}; add it, labels are recorded at the temperature of"
                " their use"
            )
        return self


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
