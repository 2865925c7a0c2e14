"""Stage `distil`: the student learns from labels; and, for the comparison, the same student without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instil.core import console
from instil.core.errors import ConfigError
from instil.data.tokens import Encoded
from instil.models.family import family_of
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
from instil.train.task import RowLoss, TextTask
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
    task = distil_task(recipe, section, loaded.model, examples, labels)
    task.held_out = held_out_examples(recipe, loaded, data, section.loop)
    name = WITH_TEACHER if labels else WITHOUT_TEACHER
    with console.progress(name, 100, "%") as advance:
        result = run_training(task, section.loop, folder=folder, seed=recipe.seed, advance=advance)
    result["cut"] = str(cut)
    return result | keep_model(merged(task.module.model), loaded.tokenizer, folder)


def distil_task(
    recipe: Recipe, section: DistilConfig, model: Any, examples: Sequence[Encoded], labels: Labels | None
) -> TextTask:
    """What the loop trains: `model` with the weights that `section` adapts, on `examples` with their labels."""
    alpha = section.alpha if labels else 0.0
    mix = Mix(
        soft=alpha, hard=1 - alpha, temperature=section.temperature, smoothing=section.smoothing,
        divergence=section.divergence, beta=section.beta, least=labels.least if labels else TINY,
    )  # fmt: skip
    adapted = adapt(model, section.adapt, seed=recipe.seed)
    return TextTask(
        RowLoss(adapted, family_of(adapted), mix), examples, (),
        labels.store.read if labels and labels.store else None, section.loop.batch_tokens,
    )  # fmt: skip
