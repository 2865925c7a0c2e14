"""How a student reads the labels of its teacher: as they are, in its own tokens where it lacks some of the teacher's,
or by rank where its tokens are others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from instil.core import console
from instil.core.errors import ConfigError, LabelError
from instil.data.tokens import Encoded, Kind, Limits, encode_records
from instil.labels.aligned import NOWHERE, AlignedLabels, target_ends
from instil.labels.linked import LinkedLabels
from instil.models.loading import LoadedModel, Reader, load_reader
from instil.models.students.vocabulary.link import link
from instil.run.recipe import Recipe
from instil.run.sections.distil import DistilConfig
from instil.run.stages.label import Labels
from instil.train.task import LabelReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Who reads labels at each temperature, the examples that they can be read for, and the ids of the others: records
    whose target is other tokens for a student that lacks some of the teacher's."""

    examples: Sequence[Encoded]
    readers: Mapping[float, LabelReader] = field(default_factory=dict)
    left_out: Sequence[str] = ()


def require_same_rows(
    setting: Literal["features", "on_policy"], teacher: Reader | LoadedModel, student: Any, kind: Kind
) -> None:
    """Raises `ConfigError` where a student of `kind`, with the tokenizer `student`, has other tokens or rows than the
    `teacher`, who is to pass over them, as `setting` of the section distil wants."""
    if not student.get_vocab().items() <= teacher.tokenizer.get_vocab().items():
        raise ConfigError(
            f"distil.{setting}: the student has tokens that are others to its teacher, who cannot read them; choose a"
            f" student with the teacher's tokenizer, or leave {setting} out"
        )
    if teacher.kind != kind:
        raise ConfigError(
            f"distil.{setting}: the student is {kind}, its teacher {teacher.kind}, so their rows differ; choose a"
            f" student of the teacher's kind, or leave {setting} out"
        )


def reading_of(recipe: Recipe, loaded: LoadedModel, labels: Labels | None, examples: Sequence[Encoded]) -> Reading:
    """How the student `loaded` reads the labels of its `examples`. Raises `LabelError` where none fits."""
    if labels is None or labels.store is None or recipe.distil is None:
        return Reading(examples=examples)
    if recipe.distil.tokens == "aligned":
        return _aligned(recipe, recipe.distil, loaded, labels, examples)
    linked = _linked(recipe, loaded, labels)
    read = linked.read if linked else labels.store.read
    readers = {each: partial(read, temperature=each) for each in recipe.distil.temperatures}
    if linked is None:
        return Reading(examples=examples, readers=readers)
    fitting = [example for example in examples if linked.fits(example)]
    left_out = [example.id for example in examples if not linked.fits(example)]
    if not fitting:
        raise LabelError(
            "no target is the same tokens for teacher and student, so labels are of no use; see student.model"
        )
    if left_out:
        console.say(
            f"  {len(left_out):,} of {len(examples):,} records are left out, their targets are other tokens for the"
            f" student: {', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''}"
        )
    return Reading(examples=fitting, readers=readers, left_out=left_out)


def _aligned(
    recipe: Recipe, section: DistilConfig, loaded: LoadedModel, labels: Labels, examples: Sequence[Encoded]
) -> Reading:
    """For a student whose tokens are others. Raises `LabelError` where no row meets one of the teacher's."""
    assert labels.store is not None
    reader, originals = _originals(recipe, labels)
    texts = [record.targets[0] for record in labels.records]
    ids = [record.id for record in labels.records]
    theirs, own = (
        dict(zip(ids, target_ends(each.tokenizer, recipe.prompt, texts, each.kind), strict=True))
        for each in (reader, loaded)
    )
    aligned = AlignedLabels(labels.store, originals, theirs, own)
    rows = [row for example in examples for row in aligned.rows(example)]
    met = sum(row != NOWHERE for row in rows)
    if not met:
        raise LabelError("no row of the student meets one of the teacher's, so labels are of no use; see student.model")
    console.say(f"  {met:,} of {len(rows):,} rows meet one of the teacher's; the others learn from their targets alone")
    return Reading(
        examples=examples, readers={each: partial(aligned.read, temperature=each) for each in section.temperatures}
    )


def _originals(recipe: Recipe, labels: Labels) -> tuple[Reader, Sequence[Encoded]]:
    """How the teacher reads, and its own examples."""
    reader = load_reader(labels.teacher, revision=recipe.teacher.revision, accept_licences=recipe.accept_licences)
    limits = Limits(source=recipe.limits.source, target=recipe.limits.target)
    return reader, encode_records(reader.tokenizer, recipe.prompt, labels.records, limits, reader.kind)[0]


def _linked(recipe: Recipe, loaded: LoadedModel, labels: Labels) -> LinkedLabels | None:
    """None for a student that has all of the teacher's tokens."""
    student = recipe.student
    if student is None or labels.store is None or not (student.vocabulary or student.model):
        return None
    reader, originals = _originals(recipe, labels)
    found = link(reader.tokenizer, loaded.tokenizer)
    if found is None or reader.tokenizer.get_vocab() == loaded.tokenizer.get_vocab():
        return None
    return LinkedLabels(labels.store, found, originals)
