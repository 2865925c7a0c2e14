"""Further teachers beside the recipe's own: the labels of each, made here or named, and the mixture of all.

A further teacher labels the very examples that the recipe's own has labelled, in its tokens, as a stage of its own.
Teachers are in memory one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from instil.core import console
from instil.core.errors import ConfigError
from instil.core.fingerprint import fingerprint
from instil.data.records import Record
from instil.labels.mixed import MixedLabels
from instil.labels.store import LabelStore
from instil.models.loading import Reader, load_reader
from instil.models.preflight_tokens import two_teachers
from instil.run.recipe import Recipe
from instil.run.sections.teacher import TeacherConfig
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.label import (
    STORE_NAME,
    Labels,
    damage_of_labels,
    open_own,
    sources_of,
    wants_rows,
    write_part,
    write_store,
)
from instil.run.stages.teach import Teacher, base_teacher, encode, shipped


def run_labels(shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher) -> Labels:
    """The labels of the recipe: a store made before, or made here by the teacher, mixed with those of the others."""
    artifact = None if recipe.labels.store else write_part(shop, recipe, data, teacher, None)
    own = open_own(recipe, data.splits["train"], teacher, artifact)
    if not recipe.labels.other_teachers or not wants_rows(recipe):
        return _with_stores(recipe, own)
    others = iter([_written(shop, recipe, data, own, teacher, each) for each in other_teachers(recipe)])
    made = [None if other.store else next(others) for other in recipe.labels.others]
    return _mixed(recipe, own, made)


def open_labels(recipe: Recipe, train: Sequence[Record], teacher: Teacher) -> Labels:
    """The labels in the stores that the recipe names. Writes nothing."""
    return _with_stores(recipe, open_own(recipe, train, teacher))


def other_teachers(recipe: Recipe) -> list[Teacher]:
    """Those of `labels.others` that are teachers themselves, in their order."""
    return [beside(recipe, other) for other in recipe.labels.other_teachers]


def beside(recipe: Recipe, other: TeacherConfig) -> Teacher:
    """A further teacher of `recipe`, as it is."""
    return base_teacher(recipe.model_copy(update={"teacher": other}))


def check_others(recipe: Recipe) -> None:
    """Raises `ConfigError` where a further teacher has other tokens or rows than the recipe's own."""
    if not recipe.labels.other_teachers:
        return
    own = _reader(recipe, recipe.teacher)
    for other in recipe.labels.other_teachers:
        for problem in two_teachers(other.title, own, _reader(recipe, other)):
            raise ConfigError(str(problem))


def _reader(recipe: Recipe, teacher: TeacherConfig) -> Reader:
    return load_reader(teacher.model, revision=teacher.revision, accept_licences=recipe.accept_licences)


def _written(shop: Workshop, recipe: Recipe, data: Data, own: Labels, teacher: Teacher, other: Teacher) -> Artifact:
    """The store of what `other` says of the examples that `own` labels."""
    assert isinstance(own.store, LabelStore)

    def work(folder: Path) -> Mapping[str, Any]:
        reader = teacher.reader or load_reader(
            own.teacher, revision=recipe.teacher.revision, accept_licences=recipe.accept_licences
        )
        examples, _ = encode(recipe, reader, own.records, "labels")
        teacher.rest()
        console.say(f"  {other.ref} labels what the teacher has labelled")
        try:
            return write_store(shop, recipe, data, other, examples, folder)
        finally:
            other.rest()

    section = recipe.labels.model_dump(mode="json", include={"detail", "head", "temperatures"})
    return shop.stage(
        "label", work, inputs={**sources_of(recipe, other), "examples": own.store.manifest.whole}, config=section,
        label="label-other", damage=damage_of_labels,
    )  # fmt: skip


def _with_stores(recipe: Recipe, own: Labels) -> Labels:
    """`own` with the stores that the recipe names, where there is anything to mix."""
    section = recipe.labels.model_copy(update={"others": tuple(each for each in recipe.labels.others if each.store)})
    if own.store is None:
        return own
    if not section.others:
        return own if wants_rows(recipe) else replace(own, store=None)
    return _mixed(recipe.model_copy(update={"labels": section}), own, [None] * len(section.others))


def other_store(store: str) -> Path:
    """The folder of a further teacher's labels that `store` names."""
    folder = shipped(store, "labels")
    return folder / STORE_NAME if (folder / STORE_NAME).is_dir() else folder


def _mixed(recipe: Recipe, own: Labels, made: Sequence[Artifact | None]) -> Labels:
    """`own` with the labels of the others, `made` by a stage or named by the recipe."""
    assert isinstance(own.store, LabelStore)
    section, stores = recipe.labels, [own.store]
    for other, artifact in zip(section.others, made, strict=True):
        folder = artifact.folder / STORE_NAME if artifact else other_store(str(other.store))
        # Another teacher is what it is for; prompts and targets are compared record by record.
        stores.append(LabelStore(folder, expect={}, temperature=own.store.temperature, drawn=own.store.drawn))
    weights = {task: section.shares(task) for task in recipe.data.tasks}
    mixed = MixedLabels(
        stores, weights, by_loss=section.trust == "by-loss",
        alike=[store for store, artifact in zip(stores[1:], made, strict=True) if artifact],
    )  # fmt: skip
    mark = fingerprint([store.manifest.mark for store in stores], weights, section.trust)
    records = [record for record in own.records if record.id in mixed]
    return replace(
        own, store=mixed if wants_rows(recipe) else None, records=records, fingerprint=mark,
        others=[artifact for artifact in made if artifact],
    )  # fmt: skip
