"""What the checks of a recipe look at: its data, models and labels, each read on first use and nothing written.

A part that cannot be read becomes a problem once, under the group that it belongs to; checks that need it are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from instil.core.errors import InstilError
from instil.core.problems import Problem, problem_of
from instil.data.account import Account
from instil.data.load import load_splits
from instil.data.records import Record, SplitName, Splits
from instil.data.tokens import Encoded, Limits, Truncation, encode_records
from instil.models.adapters import hash_adapter
from instil.models.family import family_of
from instil.models.loading import LoadedModel, Reader, load_model, load_reader
from instil.models.preflight import context, hub, require_finite
from instil.models.students.scratch import kind_of
from instil.objectives.divergences import TINY
from instil.objectives.sparse import SparseLabels
from instil.run.check.step import Step, Untrained, logits_of, take_step
from instil.run.recipe import Recipe
from instil.run.sections.distil import DistilConfig
from instil.run.sections.student import StudentConfig
from instil.run.stages.label import Labels
from instil.run.stages.others import beside, open_labels
from instil.run.stages.scratch import scratch_student
from instil.run.stages.student import cut_student
from instil.run.stages.teach import Teacher, base_teacher, shipped
from instil.train.preflight import live_labels

T = TypeVar("T")
ENCODED = 512
"""Training records that are turned into tokens."""
CANARIES, STEP = 8, 4
"""Records of the one batch that goes through both models, and of the part of it that is learned from."""
MOST_ROWS = 300
"""Most target tokens of that batch, whose logits are all in memory at once."""
_CALIBRATION = 8


@dataclass
class Case:
    """A recipe under examination; paths in it are relative to `base`. `sample`: validation records that both models
    answer. `quick`: no weights are loaded. `read` gives the data where they are at hand already."""

    recipe: Recipe
    base: Path
    sample: int = 24
    quick: bool = False
    read: Callable[[], tuple[Splits, Account]] | None = None
    broken: dict[str, list[Problem]] = field(default_factory=dict)

    def part(self, group: str, make: Callable[[], T], *, where: str = "") -> T | None:
        """What `make` gives; None where it raises a user's error, which is kept as a problem of `group`. `where`: the
        section that it is about, where its message does not say so."""
        try:
            return make()
        except InstilError as error:
            problem = problem_of(error)
            self._break(group, [replace(problem, where=where) if where else problem])
            return None

    def _break(self, group: str, problems: Sequence[Problem]) -> None:
        known = self.broken.setdefault(group, [])
        known += [problem for problem in problems if problem not in known]

    @cached_property
    def data(self) -> tuple[Splits, Account] | None:
        """Records by split, and what cleaning did."""
        return self.part("data", self.read or (lambda: load_splits(self.recipe.data, base=self.base)))

    def split(self, name: SplitName) -> list[Record]:
        """The records of a split; none where the data cannot be read."""
        return self.data[0][name] if self.data else []

    @cached_property
    def teacher_reader(self) -> Reader | None:
        """How the teacher reads; None for one from scratch, whose tokenizer is yet to be trained."""
        if self.recipe.teacher.scratch:
            self.part("models", lambda: kind_of(self.recipe.teacher.model))
            return None
        return self.reader(self.recipe.teacher.model, self.recipe.teacher.revision)

    @cached_property
    def student_reader(self) -> Reader | None:
        """How a student with a model of its own reads; None for any other."""
        section = self.recipe.student
        return self.reader(section.model, section.revision) if section and section.model else None

    @cached_property
    def other_readers(self) -> list[tuple[str, Reader]]:
        """How further teachers read that are at hand, each with its title."""
        found = []
        for each in self.recipe.labels.other_teachers:
            if reader := self.reader(each.model, each.revision):
                found.append((each.title, reader))
                if not self.quick:  # That weights and adapter are there is a finding of the case itself.
                    self.part("models", partial(beside, self.recipe, each))
        return found

    def reader(self, ref: str, revision: str | None) -> Reader | None:
        """How the model that `ref` names reads; None where it cannot be had, which is kept as a problem."""
        if unreachable := hub(ref, revision):
            self._break("models", unreachable)
            return None
        licences = self.recipe.accept_licences
        return self.part("models", lambda: load_reader(ref, revision=revision, accept_licences=licences))

    @cached_property
    def encoded(self) -> tuple[list[Encoded], Truncation]:
        """The first training records as the teacher reads them, and what was cut."""
        return self._encode(self.split("train")[:ENCODED], self.teacher_reader) or ([], Truncation())

    def _encode(self, records: Sequence[Record], reader: Reader | None) -> tuple[list[Encoded], Truncation] | None:
        if reader is None or not records or not _can_encode(reader, self.recipe):
            return None
        limits = Limits(source=self.recipe.limits.source, target=self.recipe.limits.target)
        return self.part(
            "models", lambda: encode_records(reader.tokenizer, self.recipe.prompt, records, limits, reader.kind)
        )

    def examples(self, records: Sequence[Record], reader: Reader | None = None) -> list[Encoded]:
        """`records` as `reader` reads them, the teacher unless it is given."""
        found = self._encode(records, reader or self.teacher_reader)
        return found[0] if found else []

    @cached_property
    def context(self) -> list[Problem]:
        """Whether the examples fit into both models; no model is asked anything where they do not."""
        recipe, (examples, _) = self.recipe, self.encoded
        longest = max((len(example.target_ids) for example in examples), default=0)
        by_teacher = recipe.limits.target if recipe.labels.targets == "teacher" else 0
        section = recipe.evaluate
        written = max(by_teacher, *(each.max_new_tokens for each in (section, *section.also)))
        readers = {"teacher": self.teacher_reader, "student": self.student_reader}
        return [
            problem
            for role, reader in readers.items()
            if reader is not None
            for problem in context(role, reader, examples, target=longest, written=written)
        ]

    @cached_property
    def _teacher(self) -> Teacher | None:
        if self.teacher_reader is None or self.recipe.teacher.served:
            return None
        return self.part("models", lambda: base_teacher(self.recipe))

    @cached_property
    def teacher(self) -> LoadedModel | None:
        """The teacher before any teaching, in memory."""
        section, made = self.recipe.teacher, self._teacher
        if self.quick or section.served:
            if section.adapter:
                self.part("models", lambda: hash_adapter(shipped(str(section.adapter), "models")))
            return None
        return self.part("models", lambda: _usable(made.loaded)) if made else None

    @cached_property
    def labels(self) -> Labels | None:
        """The store that the recipe names. None for one of a teacher that is yet to be taught."""
        recipe, made = self.recipe, self._teacher
        if not recipe.labels.store or recipe.teacher.teach or not made:
            return None
        return self.part("alignment", lambda: open_labels(recipe, self.split("train"), made))

    @cached_property
    def canaries(self) -> list[Encoded]:
        """The examples of one batch, with labels if there are any."""
        found = self.examples(self._canary_records)
        rows = list(accumulate(len(example.target_ids) for example in found))
        return [example for example, until in zip(found, rows, strict=True) if until <= MOST_ROWS] or found[:2]

    @cached_property
    def student_canaries(self) -> list[Encoded]:
        """The same as the student reads them."""
        return self.examples(self._canary_records, self.student_reader)[: len(self.canaries)]

    @property
    def _canary_records(self) -> list[Record]:
        return (self.labels.records if self.labels else self.split("train"))[:CANARIES]

    @cached_property
    def student(self) -> Untrained | None:
        """The student before it learns, built quickly: cuts are not mended, and measured on a few examples. None for
        one that only teaching makes possible, or that has a tokenizer still to be trained."""
        section = self.recipe.student
        if section is None or self.quick or (section.model and not self.student_reader):
            return None
        later = section.choice == "taught" or (section.scratch and section.scratch.tokenizer)
        return None if later else self.part("models", lambda: self._build(section, self.instructor))

    @cached_property
    def instructor(self) -> LoadedModel | None:
        """Who the student is made out of: the last assistant, built as quickly as a student, or the teacher."""
        found = self.teacher
        for number, assistant in enumerate(self.recipe.assistants if found else ()):
            build = partial(self._build, assistant.student, found)
            made = self.part("models", build, where=f"assistants[{number}].student")
            found = replace(found, model=made.model, tokenizer=made.tokenizer) if found and made else found
        return found

    def _build(self, section: StudentConfig, above: LoadedModel | None) -> Untrained | None:
        recipe = self.recipe
        if section.model:
            own = load_model(section.model, revision=section.revision, accept_licences=recipe.accept_licences)
            return Untrained(_usable(own).model, own.tokenizer)
        if above is None:
            return None
        if section.scratch:
            return Untrained(*scratch_student(section.scratch, above, (), recipe.seed)[:2])
        if not (section.layers or section.encoder_layers or section.keep or section.width):
            return None
        quickly = section.model_copy(
            update={
                "mend": False, "calibration": min(section.calibration, _CALIBRATION),
                "choice": "even" if section.choice == "greedy" else section.choice,
            }
        )  # fmt: skip
        measured = section.width or quickly.choice == "block-influence"
        if measured and not self.encoded[0]:
            return None
        model, told = cut_student(recipe, quickly, self.split("train") if measured else (), above)
        return Untrained(model.eval(), above.tokenizer, told["depth"].get("decoder", {}).get("kept"))

    @cached_property
    def step(self) -> Step | None:
        """The canaries through the student as training takes them; None where there is no student at hand."""
        section, student = self.recipe.distil, self.student
        if section is None or student is None or not self.canaries or self.context:
            return None
        labels, least = self._canary_labels(section, self.canaries[:STEP])
        teacher = self.teacher.model if self.teacher and section.features and labels else None
        return self.part(
            "objective", lambda: take_step(section, student, self.student_canaries[:STEP], labels, least, teacher)
        )

    def _canary_labels(
        self, section: DistilConfig, examples: Sequence[Encoded]
    ) -> tuple[dict[float, SparseLabels], float | None]:
        """Labels of the rows of `examples`, stored ones or straight from the teacher, and what a probability of 0 is
        less than. None of a teacher that is yet to be taught, nor for a student of other tokens."""
        own, theirs = self.student_reader, self.teacher_reader
        apart = own and theirs and own.tokenizer.get_vocab() != theirs.tokenizer.get_vocab()
        apart = apart or [one.target_ids for one in self.canaries] != [one.target_ids for one in self.student_canaries]
        if apart or not section.learns_from_labels or self.recipe.teacher.teach:
            return {}, None
        at = section.temperature.at(0.0)
        if self.labels and self.labels.store:
            ids_NK, probs_NK = self.labels.store.read(examples, at)
            return {at: SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK)}, self.labels.least
        if self.teacher is None:
            return {}, None
        return {at: live_labels(logits_of(self.teacher.model, examples), at)}, TINY


def _can_encode(reader: Reader, recipe: Recipe) -> bool:
    """Whether `reader` can make examples at all; what it lacks is found by the checks of models."""
    templated = recipe.prompt.kind != "chat" or bool(getattr(reader.tokenizer, "chat_template", None))
    return templated and reader.tokenizer.eos_token_id is not None


def _usable(loaded: LoadedModel) -> LoadedModel:
    """`loaded`, which gives rows of numbers. Raises `ModelError` for one that does not."""
    require_finite(loaded.model, loaded.ref)
    family_of(loaded.model)
    return loaded
