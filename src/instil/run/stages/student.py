"""Stage `student`: the student before it learns: cut out of the teacher, made from scratch, or loaded as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from instil.core.errors import ConfigError
from instil.data.records import Record
from instil.models.loading import LoadedModel, Located, load_model, locate
from instil.run.card import student_card
from instil.run.recipe import Recipe
from instil.run.sections.student import StudentConfig
from instil.run.stage import Artifact, Workshop
from instil.run.stages.cuts import cut_depth, cut_widths, kept_layers
from instil.run.stages.data import Data
from instil.run.stages.label import Labels
from instil.run.stages.made_models import keep_model
from instil.run.stages.scratch import scratch_student
from instil.run.stages.teach import Teacher, encode
from instil.run.stages.tokens import trimmed


def run_student(shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher, labels: Labels | None = None) -> Artifact:
    """The artifact whose `model` folder is the untrained student; `labels` where `needs_labels`."""
    section = recipe.student
    if section is None:
        raise ConfigError("the recipe has no student section; add one, for example student: {layers: 12}")
    place = check_student(recipe)
    inputs = {"student": place.fingerprint} if place else {"teacher": teacher.fingerprint}
    read: dict[str, Any] = {}
    if place is None or section.vocabulary:
        inputs["data"] = data.fingerprint
        read = {"prompt": recipe.prompt.model_dump(mode="json"), "limits": recipe.limits.model_dump(mode="json")}
    if labels is not None:
        inputs["labels"] = labels.fingerprint
    return shop.stage(
        "student",
        lambda folder: _build(recipe, section, data, teacher, labels, folder),
        inputs=inputs,
        config=section.model_dump(mode="json") | read,
    )


def check_student(recipe: Recipe) -> Located | None:
    """Where the student's own model is, if it has one. Raises `ModelError` for one that cannot learn to write text."""
    section = recipe.student
    if section is None or section.model is None:
        return None
    return locate(section.model, revision=section.revision, accept_licences=recipe.accept_licences)


def _build(
    recipe: Recipe, section: StudentConfig, data: Data, teacher: Teacher, labels: Labels | None, folder: Path
) -> Mapping[str, Any]:
    if section.model is not None:
        loaded = load_model(section.model, revision=section.revision, accept_licences=recipe.accept_licences)
        model, tokenizer, made = loaded.model, loaded.tokenizer, {"origin": section.model, "licence": loaded.licence}
    elif section.scratch is not None:
        loaded = teacher.loaded
        model, tokenizer, made = scratch_student(section.scratch, loaded, data.splits["train"], recipe.seed_of_student)
    else:
        loaded = teacher.loaded
        tokenizer = loaded.tokenizer
        model, made = cut_student(recipe, kept_layers(section, teacher), data.splits["train"], loaded)
    model, tokenizer, kept = trimmed(recipe, data, labels, model, tokenizer, loaded.kind)
    result = {"parameters": model.num_parameters(), "licence": teacher.licence, **made, **kept}
    return result | keep_model(model, tokenizer, folder, card=student_card(recipe, result, loaded.kind))


def cut_student(
    recipe: Recipe, section: StudentConfig, train: Sequence[Record], teacher: LoadedModel
) -> tuple[Any, dict[str, Any]]:
    """The teacher made smaller, and what is to be told of it."""
    examples, _ = encode(recipe, teacher, train[: section.calibration], "calibration")
    model, depth = cut_depth(section, teacher.model.cpu(), examples)
    made: dict[str, Any] = {"depth": depth}
    if section.width is not None:
        model, report = cut_widths(section.width.widths(), model, examples, mend=section.mend)
        made["width"] = asdict(report)
    return model, made
