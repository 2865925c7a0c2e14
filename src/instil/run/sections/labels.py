"""Section `labels`: what is recorded of the teacher, and for which targets."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from instil.core.config import Config
from instil.data.records import MAIN_TASK
from instil.labels.config import Detail
from instil.run.sections.teacher import TeacherConfig

Share = Annotated[float, Field(gt=0, lt=1)]


class OtherLabelsConfig(Config):
    """A further teacher of the same tokens, for the same prompts and targets: itself, a `teacher` in memory with what
    adapter it has, or a `store` of its labels. `weight`: its share of the mixture; or its share in each task that it is
    to teach."""

    store: str | None = None
    teacher: TeacherConfig | None = None
    weight: Share | dict[str, Share]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.store is None) == (self.teacher is None):
            both = "store and teacher are both set" if self.store else "neither store nor teacher is set"
            raise ValueError(f"{both}; name the teacher itself, or the store of its labels")
        return self

    @model_validator(mode="after")
    def _as_it_is(self) -> Self:
        teacher = self.teacher
        if teacher is None:
            return self
        if teacher.served:
            raise ValueError(
                "a served teacher is not loaded beside another; label with it in a recipe of its own and name that"
                " store, or leave served out"
            )
        if teacher.teach or teacher.scratch:
            raise ValueError(
                "other teachers are taken as they are; teach it first and name its model or adapter, and leave teach"
                " and scratch out"
            )
        return self

    def share_of(self, task: str) -> float:
        """Its share of the mixture for that task's records."""
        return self.weight.get(task, 0.0) if isinstance(self.weight, dict) else self.weight


class KeepConfig(Config):
    """Which of the texts that a teacher wrote become targets, by `score`, its own mean log-probability a token in nats,
    or by `rouge`, ROUGE-L with the gold target in percent. Those below `least` go; of each source's candidates the
    `best` so many stay, and of all that are left the best `share`."""

    by: Literal["score", "rouge"]
    least: float | None = None
    best: PositiveInt | None = None
    share: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.least is None and self.best is None and self.share is None:
            raise ValueError("nothing says what stays; set least, best or share")
        if self.least is not None and (self.least >= 0) == (self.by == "score"):
            scale = "a mean log-probability, below 0" if self.by == "score" else "a percentage"
            raise ValueError(f"least is {self.least:g} but of {self.by} it is {scale}")
        return self


class LabelsConfig(Config):
    """What is recorded of the teacher for the first `records` of the train split (all when not given), at each of
    `temperatures`. `detail`: how finely each row is drawn, in a dozen, two dozen or five dozen bytes; `head`: instead
    of that, the so many most probable ids and the mass of the rest. `targets`: rows of the gold targets, or of the
    teacher's own outputs by search over `beams` (sequence-level distillation, Kim and Rush 2016, arXiv 1606.07947).
    With `sample`, `candidates` outputs a source are drawn at that temperature instead; of a search, the best ones.
    `completions`: a file of outputs for targets, of a teacher far away (labels/completions.py). `keep`: which of such
    targets stay. With `distil.alpha: 0`, targets are all that is made. `store`: a store made before, or `builtin:NAME`
    for one that instil ships. `others`: further teachers, or stores of theirs, mixed in; with `trust: by-loss`, more of
    those that know an example's target better (labels/mixed.py). A served teacher tells its first `head` ids, 20 when
    not given.
    """

    detail: Detail = "default"
    head: PositiveInt | None = None
    temperatures: tuple[PositiveFloat, ...] = Field(default=(1.0,), min_length=1)
    records: PositiveInt | None = None
    targets: Literal["gold", "teacher"] = "gold"
    beams: PositiveInt = 1
    candidates: PositiveInt = 1
    sample: PositiveFloat | None = None
    completions: str | None = None
    keep: KeepConfig | None = None
    batch_tokens: PositiveInt = 4096
    store: str | None = None
    others: tuple[OtherLabelsConfig, ...] = ()
    trust: Literal["fixed", "by-loss"] = "fixed"

    @property
    def other_teachers(self) -> tuple[TeacherConfig, ...]:
        """Those of `others` that are teachers themselves, in their order."""
        return tuple(other.teacher for other in self.others if other.teacher)

    def _taken(self, task: str) -> float:
        return sum(other.share_of(task) for other in self.others)

    def shares(self, task: str) -> tuple[float, ...]:
        """What the recipe's own teacher and each of the others has of that task's mixture."""
        return (1 - self._taken(task), *(other.share_of(task) for other in self.others))

    @model_validator(mode="after")
    def _weights_leave_something(self) -> Self:
        tasks = {task for other in self.others if isinstance(other.weight, dict) for task in other.weight}
        if (taken := max(map(self._taken, tasks or {MAIN_TASK}))) >= 1:
            raise ValueError(
                f"the weights of others add up to {taken:g}, so nothing is left for the teacher; lower them"
            )
        return self

    @model_validator(mode="after")
    def _candidates_exist(self) -> Self:
        if self.sample and self.beams > 1:
            raise ValueError("sample and beams are two ways to choose outputs; keep one")
        if not self.sample and self.candidates > self.beams:
            raise ValueError(
                f"candidates is {self.candidates} but a search over {self.beams} beams ends with no more than that;"
                " raise beams, or set sample: 1.0 to draw them"
            )
        if self.targets == "gold" and (self.candidates > 1 or self.sample):
            raise ValueError("candidates and sample are about the teacher's outputs; set targets: teacher")
        if self.keep and self.targets == "gold" and not self.completions:
            raise ValueError("keep chooses among the teacher's outputs; set targets: teacher, or leave it out")
        return self
