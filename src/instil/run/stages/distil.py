"""Stage `distil`: the student learns from labels; and, for the comparison, the same student without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instil.core import console
from instil.core.errors import ConfigError, LabelError
from instil.data.records import Record
from instil.data.tokens import Encoded, Limits, encode_records
from instil.labels.linked import LinkedLabels
from instil.labels.store import LabelStore
from instil.models.family import family_of
from instil.models.loading import LoadedModel, load_tokenizer
from instil.models.students.vocabulary.link import link
from instil.objectives.divergences import TINY
from instil.objectives.fused import Mix
from instil.run.recipe import DistilConfig, Recipe
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.label import Labels
from instil.run.stages.made_models import keep_model, load_made
from instil.run.stages.teach import encode, held_out_examples
from instil.train.checkpoint import discard
from instil.train.session import run_training
from instil.train.task import LabelReader, RowLoss, TextTask
from instil.train.teach import adapt, merged

WITH_TEACHER = "distil"
WITHOUT_TEACHER = "distil-without-teacher"


def run_distil(shop: Workshop, recipe: Recipe, data: Data, student: Artifact, labels: Labels | None) -> Artifact:
    """The trained student. Without `labels` it learns from gold targets alone, for the same budget."""
    section = recipe.distil
    if section is None:
        raise ConfigError(
            "the recipe has no distil section; add one, for example distil: {loop: {budget: {minutes: 5}}}"
        )
    config: dict[str, Any] = {
        "distil": _decisive(section, with_labels=labels is not None),
        "prompt": recipe.prompt.model_dump(mode="json"),
        "limits": recipe.limits.model_dump(mode="json"),
    }
    inputs = {"student": student.fingerprint, "data": data.fingerprint}
    if labels is not None:
        inputs["labels"] = labels.fingerprint
    artifact = shop.stage(
        "distil",
        lambda folder: _distil(recipe, section, data, student, labels, folder),
        inputs=inputs,
        config=config,
        label=WITH_TEACHER if labels else WITHOUT_TEACHER,
    )
    discard(artifact.folder)
    return artifact


def _decisive(section: DistilConfig, *, with_labels: bool) -> dict[str, Any]:
    """The settings that the result depends on: without labels, no soft loss's."""
    names = (
        {"alpha", "temperature", "smoothing", "adapt", "divergence", "beta"} if with_labels else {"smoothing", "adapt"}
    )
    return section.model_dump(mode="json", include=names) | {"loop": section.loop.decisive()}


def _distil(
    recipe: Recipe, section: DistilConfig, data: Data, student: Artifact, labels: Labels | None, folder: Path
) -> Mapping[str, Any]:
    loaded = load_made(student)
    records = labels.records if labels else data.splits["train"]
    examples, cut = encode(recipe, loaded, records, "train")
    reader, examples, left_out = _reader(recipe, loaded, labels, examples)
    held_out = held_out_examples(recipe, loaded, data, section.loop)
    alpha = section.alpha if labels else 0.0
    mix = Mix(
        soft=alpha, hard=1 - alpha, temperature=section.temperature, smoothing=section.smoothing,
        divergence=section.divergence, beta=section.beta, least=labels.least if labels else TINY,
    )  # fmt: skip
    model = adapt(loaded.model, section.adapt, seed=recipe.seed)
    task = TextTask(RowLoss(model, family_of(model), mix), examples, held_out, reader, section.loop.batch_tokens)
    name = WITH_TEACHER if labels else WITHOUT_TEACHER
    with console.progress(name, 100, "%") as advance:
        result = run_training(task, section.loop, folder=folder, seed=recipe.seed, advance=advance)
    result["cut"] = str(cut)
    if left_out:
        result["left_out"] = left_out
    return result | keep_model(merged(model), loaded.tokenizer, folder)


def _reader(
    recipe: Recipe, loaded: LoadedModel, labels: Labels | None, examples: list[Encoded]
) -> tuple[LabelReader | None, list[Encoded], list[str]]:
    """What reads the labels for the student, the examples that it can read them for, and the ids of the others: records
    whose target is other tokens for a student that lacks some of the teacher's."""
    if labels is None or labels.store is None:
        return None, examples, []
    linked = _linked(recipe, loaded, labels.store, labels.records)
    if linked is None:
        return labels.store.read, examples, []
    left_out = [example.id for example in examples if not linked.fits(example)]
    if len(left_out) == len(examples):
        raise LabelError(
            "no target is the same tokens for teacher and student, so labels are of no use; see student.model"
        )
    if left_out:
        console.say(
            f"  {len(left_out):,} of {len(examples):,} records are left out, their targets are other tokens for the"
            f" student: {', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''}"
        )
    return linked.read, [example for example in examples if linked.fits(example)], left_out


def _linked(recipe: Recipe, loaded: LoadedModel, store: LabelStore, records: Sequence[Record]) -> LinkedLabels | None:
    """None for a student that has all of the teacher's tokens."""
    student, teacher = recipe.student, recipe.teacher
    if student is None or not (student.vocabulary or student.model):
        return None
    tokenizer, kind = load_tokenizer(teacher.model, revision=teacher.revision, accept_licences=recipe.accept_licences)
    found = link(tokenizer, loaded.tokenizer)
    if found is None or tokenizer.get_vocab() == loaded.tokenizer.get_vocab():
        return None
    limits = Limits(source=recipe.limits.source, target=recipe.limits.target)
    return LinkedLabels(store, found, encode_records(tokenizer, recipe.prompt, records, limits, kind)[0])
