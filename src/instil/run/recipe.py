"""A recipe: everything about one distillation, from data to report, in one YAML file of frozen sections.

The command line may change any value with `--set section.key=value`; what ran is saved, resolved, with each artifact.
"""

from __future__ import annotations

from typing import Annotated, Self

import yaml
from pydantic import AfterValidator, Field, PositiveInt, StringConstraints, model_validator

from instil.compress.config import CompressConfig
from instil.core.config import Config
from instil.data.config import DataConfig
from instil.data.prompts import Prompt
from instil.run.sections.assistants import AssistantConfig
from instil.run.sections.distil import DistilConfig
from instil.run.sections.evaluate import EvaluateConfig
from instil.run.sections.labels import LabelsConfig
from instil.run.sections.student import StudentConfig
from instil.run.sections.synthetic import SyntheticConfig
from instil.run.sections.teacher import TeacherConfig

SEEDS = 2**31
"""Half of those that NumPy takes, so that seeds that follow are seeds too."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


class LimitsConfig(Config):
    """The longest source and target, in the model's tokens; what is longer is cut, counted and reported."""

    source: PositiveInt = 512
    target: PositiveInt = 128


def _as_they_are(teachers: tuple[TeacherConfig, ...]) -> tuple[TeacherConfig, ...]:
    if taught := next((each for each in teachers if each.teach), None):
        raise ValueError(
            f"candidates are ranked as they are, but {taught.title} has teach; teach it first and name its model or"
            " adapter, or leave teach out"
        )
    return teachers


class Recipe(Config):
    """The whole recipe. Sections without which a stage cannot run are missed by that stage alone. `teachers`: those
    that `instil teachers` ranks."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] = 42
    student_seed: Annotated[int, Field(ge=0, lt=2 * SEEDS)] | None = Field(
        default=None, description="of the student's building and training, if another"
    )
    runs_dir: str = "runs"
    data: DataConfig
    prompt: Prompt = Prompt()
    limits: LimitsConfig = LimitsConfig()
    teacher: TeacherConfig
    teachers: Annotated[tuple[TeacherConfig, ...], AfterValidator(_as_they_are)] = ()
    synthetic: SyntheticConfig | None = None
    labels: LabelsConfig = LabelsConfig()
    assistants: tuple[AssistantConfig, ...] = ()
    student: StudentConfig | None = None
    distil: DistilConfig | None = None
    compress: CompressConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    accept_licences: tuple[str, ...] = ()

    @property
    def seed_of_student(self) -> int:
        """Of what is drawn while the student is built and trained."""
        return self.seed if self.student_seed is None else self.student_seed

    @model_validator(mode="after")
    def _student_to_distil(self) -> Self:
        if self.distil and not self.student:
            raise ValueError("distil has nobody to train; add a student section, for example student: {layers: 12}")
        return self

    @model_validator(mode="after")
    def _weighed_tasks_exist(self) -> Self:
        named = (task for other in self.labels.others if isinstance(other.weight, dict) for task in other.weight)
        if unknown := next((task for task in named if task not in self.data.tasks), None):
            raise ValueError(
                f"labels.others has a weight for task {unknown!r}; the tasks are {', '.join(self.data.tasks)}"
            )
        return self

    @model_validator(mode="after")
    def _others_can_tell(self) -> Self:
        live = bool(self.distil and self.distil.on_policy)
        store = next((other.store for other in self.labels.others if other.store), None)
        if live and store:
            raise ValueError(
                f"labels.others has the store {store}, which cannot label what the student writes (distil.on_policy);"
                " name its teacher in place of the store, or leave one of both out"
            )
        if self.labels.other_teachers and self.teacher.scratch:
            raise ValueError(
                "teacher.scratch gives the teacher tokens of its own, which no other teacher reads; leave labels.others"
                " out"
            )
        if self.labels.other_teachers and live and self.teacher.served:
            raise ValueError(
                "a served teacher tells its first ids alone, which are not mixed with labels.others while the student"
                " writes; load it in memory, or leave distil.on_policy out"
            )
        return self

    @model_validator(mode="after")
    def _asked_student_exists(self) -> Self:
        if self.student is None and any(each.of == "student" for each in self.evaluate.prompted):
            raise ValueError("evaluate.prompted asks the student, and there is none; add a student section")
        return self

    @model_validator(mode="after")
    def _examined_tasks_exist(self) -> Self:
        known = self.data.tasks
        if self.evaluate.task not in known:
            raise ValueError(f"evaluate.task is {self.evaluate.task!r}; choose one of {', '.join(known)}")
        if unknown := next((each.task for each in self.evaluate.also if each.task not in known), None):
            raise ValueError(f"evaluate.also has task {unknown!r}; choose one of {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _assistants_label(self) -> Self:
        labels = self.labels
        if self.assistants and not self.distil:
            raise ValueError("assistants learn as the student does; add a distil section, or leave assistants out")
        if self.assistants and (labels.store or labels.completions or labels.others):
            raise ValueError(
                "each of the assistants makes labels of its own; leave labels.store, completions and others out"
            )
        return self

    @model_validator(mode="after")
    def _student_to_compress(self) -> Self:
        if self.compress and not self.distil:
            raise ValueError("compress has no trained student; add a distil section")
        return self

    @model_validator(mode="after")
    def _server_can_tell(self) -> Self:
        labels = self.labels
        if self.teacher.served and self.distil and self.distil.features:
            raise ValueError("a served teacher shows no hidden states; leave distil.features out")
        if self.teacher.served and self.distil and self.distil.on_policy and self.distil.temperatures != (1.0,):
            raise ValueError("a served teacher tells its first ids at temperature 1; leave distil.temperature out")
        if self.teacher.served and (labels.temperatures != (1.0,) or labels.detail != "default"):
            raise ValueError(
                "a served teacher tells its first ids at temperature 1; leave labels.detail and labels.temperatures out"
            )
        if self.teacher.served and self.synthetic and self.synthetic.max_perplexity:
            raise ValueError("synthetic.max_perplexity is for a teacher in memory; leave it out")
        if self.teacher.served and labels.keep and labels.keep.by == "score":
            raise ValueError("labels.keep.by: score is for a teacher in memory; of a served one keep by rouge")
        if self.teacher.served and labels.beams > 1:
            raise ValueError("labels.beams is for a teacher in memory; a served one writes greedily, or draws: sample")
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        own_tokens = self.student and self.student.scratch and self.student.scratch.tokenizer
        if own_tokens and self.distil and self.distil.learns_its_tokens and self.distil.tokens == "same":
            raise ValueError(
                "student.scratch.tokenizer gives the student tokens of its own, which labels do not fit; learn from"
                " the teacher's texts, distil.alpha: 0 and labels.targets: teacher, without on_policy and features, or"
                " by rank, distil.tokens: aligned, or leave tokenizer out"
            )
        if self.student and self.student.vocabulary and self.distil and self.distil.features:
            raise ValueError(
                "distil.features passes the student's tokens through the teacher, who knows them by other numbers;"
                " leave student.vocabulary or distil.features out"
            )
        if self.student and self.student.vocabulary and self.distil and self.distil.on_policy:
            raise ValueError(
                "distil.on_policy needs a student that writes all of the teacher's tokens; leave student.vocabulary out"
            )
        return self

    @model_validator(mode="after")
    def _one_order(self) -> Self:
        if self.distil and self.distil.curriculum and len(self.data.tasks) > 1:
            raise ValueError("distil.curriculum orders the examples of one task; leave it out, or data.also")
        return self

    @model_validator(mode="after")
    def _one_tokenizer(self) -> Self:
        learns = self.distil and self.distil.learns_from_labels and self.distil.tokens == "same"
        if self.teacher.scratch and self.student and self.student.model and learns:
            raise ValueError(
                "teacher.scratch gives the teacher tokens of its own, which student.model does not read in, so labels"
                " do not fit it; cut the student out of the teacher, or learn from texts: distil.alpha: 0"
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
