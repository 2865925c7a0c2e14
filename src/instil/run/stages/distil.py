"""Stage `distil`: the student learns from labels; and, for the comparison, the same student without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from instil.core import console
from instil.core.errors import ConfigError
from instil.core.fingerprint import fingerprint
from instil.data.batches import Curriculum
from instil.models.family import family_of
from instil.models.layers import Side, stack_of
from instil.models.loading import to_accelerator
from instil.objectives.divergences import TINY
from instil.objectives.fused import Mix
from instil.objectives.temperature import LearnedTemperature
from instil.run.card import student_card
from instil.run.recipe import Recipe
from instil.run.sections.distil import DistilConfig, FeaturesConfig
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.label import Labels
from instil.run.stages.live import LIVE_VERSION, live_task
from instil.run.stages.made_models import keep_model, load_made
from instil.run.stages.others import other_teachers
from instil.run.stages.reading import Reading, reading_of, require_same_rows
from instil.run.stages.tasks import decisive_turns, turns_of, without_teachers
from instil.run.stages.teach import Teacher, encode, held_out_examples
from instil.train.checkpoint import discard
from instil.train.curriculum import difficulties, easy_first
from instil.train.features import FeatureRowLoss, Features, pairs_of
from instil.train.live import LiveTask
from instil.train.session import run_training
from instil.train.task import RowLoss, TextTask
from instil.train.teach import adapt, merged

WITH_TEACHER = "distil"
WITHOUT_TEACHER = "distil-without-teacher"


def run_distil(
    shop: Workshop, recipe: Recipe, data: Data, student: Artifact, labels: Labels | None, teacher: Teacher | None = None
) -> Artifact:
    """The trained student. Without `labels` it learns from gold targets alone, for the same budget. `teacher`: for its
    features, where the recipe wants them."""
    section = recipe.distil
    if section is None:
        raise ConfigError(
            "the recipe has no distil section; add one, for example distil: {loop: {budget: {minutes: 5}}}"
        )
    config: dict[str, Any] = {
        "distil": _decisive(section, with_labels=labels is not None),
        "prompt": recipe.prompt.model_dump(mode="json"),
        "limits": recipe.limits.model_dump(mode="json"),
        **decisive_turns(recipe),
    }
    if labels is not None and (section.on_policy or section.self_teacher):
        config["live"] = LIVE_VERSION
    inputs = {"student": student.fingerprint, "data": data.fingerprint}
    if labels is not None:
        inputs["labels"] = labels.fingerprint
    if not section.wants_teacher or labels is None:
        teacher = None
    if teacher is not None:
        inputs["teacher"] = teacher.fingerprint
    others = other_teachers(recipe) if teacher is not None and section.on_policy else []
    if others:
        shares = {task: recipe.labels.shares(task) for task in recipe.data.tasks}
        inputs["others"] = fingerprint([each.fingerprint for each in others], shares, recipe.labels.trust)
    artifact = shop.stage(
        "distil",
        lambda folder: _distil(recipe, section, data, student, labels, teacher, others, folder),
        inputs=inputs,
        config=config,
        label=WITH_TEACHER if labels else WITHOUT_TEACHER,
    )
    discard(artifact.folder)
    return artifact


def _decisive(section: DistilConfig, *, with_labels: bool) -> dict[str, Any]:
    """The settings that the result depends on: without labels, no soft loss's."""
    names = {"smoothing", "adapt"}
    if with_labels:
        names |= {"alpha", "temperature", "divergence", "beta", "tokens", "weigh", "features", "curriculum"}
        # Named where they are set, so that students of recipes without them are found again.
        names |= {name for name in ("on_policy", "self_teacher") if getattr(section, name)}
    return section.model_dump(mode="json", include=names) | {"loop": section.loop.decisive()}


def _distil(
    recipe: Recipe,
    section: DistilConfig,
    data: Data,
    student: Artifact,
    labels: Labels | None,
    teacher: Teacher | None,
    others: Sequence[Teacher],
    folder: Path,
) -> Mapping[str, Any]:
    loaded = load_made(student)
    if teacher is not None and section.features:
        require_same_rows("features", teacher.reads, loaded.tokenizer, loaded.kind)
    records = labels.records if labels else without_teachers(recipe, data.splits["train"])
    examples, cut = encode(recipe, loaded, records, "train")
    reading = reading_of(recipe, loaded, labels, examples)
    task = distil_task(recipe, section, student, loaded.model, labels, reading, teacher)
    if labels is not None:
        task = live_task(recipe, section, task, loaded.tokenizer, teacher, others)
    task.held_out = held_out_examples(recipe, loaded, data, section.loop)
    name = WITH_TEACHER if labels else WITHOUT_TEACHER
    with console.progress(name, 100, "%") as advance:
        result = run_training(task, section.loop, folder=folder, seed=recipe.seed_of_student, advance=advance)
    result["cut"] = str(cut)
    if task.module.learned is not None:
        result["temperature"] = task.module.learned.value
        console.say(f"  the temperature was {result['temperature']:.2f} in the end")
    if reading.left_out:
        result["left_out"] = list(reading.left_out)
    if labels is not None and section.on_policy:
        share = result["renewed_s"] / max(result["elapsed_s"], 1e-9)
        console.say(f"  {share:.0%} of the time the student wrote and the teacher read its texts")
        result["writing_share"] = round(share, 4)
    soft = labels is not None and (labels.store is not None or isinstance(task, LiveTask))
    learned = {**result, "labels": soft}
    card = student_card(recipe, student.manifest.result, loaded.kind, learned=learned)
    return result | keep_model(merged(task.module.model), loaded.tokenizer, folder, card=card)


def distil_task(
    recipe: Recipe, section: DistilConfig, student: Artifact | None, model: Any, labels: Labels | None,
    reading: Reading, teacher: Teacher | None = None,
) -> TextTask:  # fmt: skip
    """What the loop trains: `model` with the weights that `section` adapts, on the examples of `reading`; `student` is
    what it was built as, which only features need."""
    adapted = adapt(model, section.adapt, seed=recipe.seed_of_student)
    learned = LearnedTemperature(section.temperatures) if labels and section.temperature.learned else None
    mix = mix_of(section, labels.least if labels else None)
    module = RowLoss(adapted, family_of(adapted), mix, section.weigh, learned)
    if teacher is not None and student is not None and section.features:
        kept = {side: report["kept"] for side, report in student.manifest.result.get("depth", {}).items()}
        module = matching(section.features, module, teacher.loaded.model, kept)
    task = TextTask(
        module, reading.examples, (), reading.readers, section.loop.batch_tokens, **turns_of(recipe, reading.examples)
    )
    if section.curriculum and reading.readers and labels:
        read = reading.readers[section.temperatures[0]]
        hard = difficulties(read, reading.examples, by=section.curriculum.by, least=labels.least)
        task.curriculum = Curriculum(order=easy_first(hard), shares=section.curriculum.shares)
        console.say(f"  easy examples first: teacher's {section.curriculum.by} {min(hard):.2f} to {max(hard):.2f} nats")
    return task


def mix_of(section: DistilConfig, least: float | None) -> Callable[[float], Mix]:
    """What counts when so much of the budget is spent. `least`: a stored probability of 0 is less than this; None
    without labels."""

    def at(progress: float) -> Mix:
        alpha = 0.0 if least is None else section.alpha.at(progress)
        return Mix(
            soft=alpha, hard=1 - alpha, temperature=section.temperature.at(progress), smoothing=section.smoothing,
            divergence=section.divergence, beta=section.beta.at(progress), least=least or TINY,
            ranked=section.tokens == "aligned",
        )  # fmt: skip

    return at


def matching(
    sections: Sequence[FeaturesConfig], module: RowLoss, teacher: nn.Module, kept: Mapping[str, Sequence[int]]
) -> FeatureRowLoss:
    """`module` that also matches what `sections` say; `kept`: by side, the layers of its teacher that the student was
    cut out of."""
    theirs = to_accelerator(teacher.requires_grad_(False))
    features = [_features(each, kept, module.model, theirs) for each in sections]
    return FeatureRowLoss(module, theirs, family_of(theirs), features)


def _features(
    section: FeaturesConfig, kept: Mapping[str, Sequence[int]], model: nn.Module, teacher: nn.Module
) -> Features:
    side: Side = "encoder" if section.place == "encoder" else "decoder"
    if section.layers != "auto":
        pairs = section.layers
    elif section.match == "embeddings":
        pairs = ((0, 0),)
    else:
        counts = len(stack_of(model, side).layers), len(stack_of(teacher, side).layers)
        pairs = pairs_of(*counts, kept.get(side))
        pairs = pairs if section.match in ("states", "attention") else pairs[-1:]
    console.say(f"  matches {section.match} of {section.place} layers {', '.join(f'{a}-{b}' for a, b in pairs)}")
    if section.match == "attention":
        console.say("  both models compute their attention the plain way (eager), so that its weights are seen")
    chosen = {name: getattr(section, name) for name in ("match", "place", "kind", "weight", "heads")}
    return Features(pairs=pairs, **chosen)
