"""Stage `student`: the student before it learns, built out of the teacher or loaded as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from instil.core import console
from instil.core.errors import ConfigError
from instil.data.tokens import Encoded, Limits, encode_records
from instil.models.family import Family, family_of
from instil.models.layers import Side, stack_of
from instil.models.loading import LoadedModel, Located, load_model, load_reader, locate
from instil.models.students import depth
from instil.models.students.refit import Mended, mend_cuts
from instil.models.students.vocabulary.choose import Texts
from instil.models.students.vocabulary.link import link
from instil.models.students.vocabulary.trim import trim
from instil.run.recipe import Recipe, StudentConfig
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.label import Labels
from instil.run.stages.made_models import keep_model
from instil.run.stages.teach import Teacher, encode

_PROBED = 50


def needs_labels(recipe: Recipe) -> bool:
    """Whether the student is built out of targets that the labels come with: their tokens are to be kept too."""
    made = recipe.labels.targets == "teacher" or recipe.labels.completions or recipe.labels.store
    return bool(recipe.student and recipe.student.vocabulary and recipe.distil and made)


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


def check_tokenizers(recipe: Recipe, data: Data) -> None:
    """Raises `ConfigError` where a student of its own reads texts in other tokens than the teacher: labels are a row a
    token, so they would be of no use to it. One that only lacks some of the tokens writes most targets the same."""
    section, distil = recipe.student, recipe.distil
    if section is None or section.model is None or distil is None or not distil.learns_from_labels:
        return
    limits = Limits(source=recipe.limits.source, target=recipe.limits.target)
    tokenizers, read = [], []
    for model, revision in ((recipe.teacher.model, recipe.teacher.revision), (section.model, section.revision)):
        reader = load_reader(model, revision=revision, accept_licences=recipe.accept_licences)
        tokenizers.append(reader.tokenizer)
        probed = data.splits["train"][:_PROBED]
        read.append(encode_records(reader.tokenizer, recipe.prompt, probed, limits, reader.kind)[0])
    found = link(*tokenizers)
    if found is not None:
        same = sum(found.to_teacher(own.target_ids) == theirs.target_ids for theirs, own in zip(*read, strict=True))
        if same > len(read[0]) / 2:
            return
    for theirs, own in zip(*read, strict=True):
        if theirs != own:
            counts = [f"{len(e.prompt_ids)} tokens and {len(e.target_ids)} of target" for e in (theirs, own)]
            raise ConfigError(
                f"student.model {section.model} reads record {own.id!r} in other tokens than the teacher ({counts[1]};"
                f" the teacher {counts[0]}), so labels do not fit it; choose a student with the teacher's tokenizer, or"
                " learn from its texts alone: distil.alpha: 0 and labels.targets: teacher"
            )


def _build(
    recipe: Recipe, section: StudentConfig, data: Data, teacher: Teacher, labels: Labels | None, folder: Path
) -> Mapping[str, Any]:
    result: dict[str, Any] = {}
    if section.model is not None:
        loaded = load_model(section.model, revision=section.revision, accept_licences=recipe.accept_licences)
        model = loaded.model
    else:
        loaded = teacher.loaded
        model, result["depth"] = _shortened(recipe, section, data, teacher)
    tokenizer = loaded.tokenizer
    if section.vocabulary is not None:
        texts = Texts(
            prompt=recipe.prompt, limits=Limits(source=recipe.limits.source, target=recipe.limits.target),
            kind=loaded.kind, records=data.splits["train"], others=labels.records if labels else (),
        )  # fmt: skip
        tokens = section.vocabulary.tokens
        model, tokenizer, report = trim(model, tokenizer, texts, None if tokens == "used" else tokens)
        console.say(f"  {report}")
        result["vocabulary"] = asdict(report)
    return {"parameters": model.num_parameters(), **result, **keep_model(model, tokenizer, folder)}


def _shortened(
    recipe: Recipe, section: StudentConfig, data: Data, teacher: Teacher
) -> tuple[Any, dict[Side, dict[str, Any]]]:
    """The teacher with fewer layers, and what was kept of each side."""
    loaded = teacher.loaded
    model: Any = loaded.model.cpu()
    reports: dict[Side, dict[str, Any]] = {}
    examples: list[Encoded] = []
    if section.mend or section.choice == "block-influence":
        examples, _ = encode(recipe, loaded, data.splits["train"][: section.calibration], "calibration")
    if section.choice == "taught":
        section = section.model_copy(update={"keep": _taught(teacher)})
    for side, keep in _wanted(section, loaded).items():
        report = _choose(section, examples, loaded, side, keep)
        console.say(f"  keeps {side} layers {', '.join(map(str, report.kept))} of {report.layers}")
        shorter = depth.keep_layers(model, report.kept, side=side)
        reports[side] = asdict(report)
        if section.mend:
            mended = _mend(examples, shorter, model, report.kept, side)
            reports[side]["mended"] = [asdict(cut) for cut in mended]
        model = shorter
    return model, reports


def _taught(teacher: Teacher) -> tuple[int, ...]:
    """The layers that the teacher was taught to do with."""
    result = teacher.artifact.manifest.result if teacher.artifact else {}
    if "layer_drop" not in result:
        raise ConfigError("student.choice is taught, but the teacher was not; add teacher.teach.layer_drop: {keep: N}")
    return tuple(result["layer_drop"])


def _mend(examples: Sequence[Encoded], student: Any, whole: Any, kept: Sequence[int], side: Side) -> Sequence[Mended]:
    mended = mend_cuts(student, whole, kept, family_of(whole), examples, side=side)
    if mended:
        worst = max(mended, key=lambda layer: layer.error_before)
        console.say(
            f"  refitted {len(mended)} layers; at worst (layer {worst.layer}) the squared error goes from"
            f" {worst.error_before:.1%} to {worst.error_after:.1%} of the hidden state"
        )
    return mended


def _wanted(section: StudentConfig, loaded: LoadedModel) -> dict[Side, int]:
    wanted: dict[Side, int] = {}
    if section.encoder_layers is not None:
        wanted["encoder"] = section.encoder_layers
    if section.layers is not None or section.keep is not None:
        wanted["decoder"] = section.layers or len(section.keep or ())
    return wanted


def _choose(
    section: StudentConfig, examples: Sequence[Encoded], loaded: LoadedModel, side: Side, keep: int
) -> depth.DepthReport:
    count = len(stack_of(loaded.model, side).layers)
    if section.keep is not None:
        return depth.DepthReport(kept=section.keep, layers=count)
    if section.choice == "even":
        return depth.DepthReport(kept=depth.evenly_spaced(count, keep), layers=count)
    family: Family = family_of(loaded.model)
    influence = depth.block_influence(loaded.model, family, examples, side=side)
    return depth.DepthReport(kept=depth.most_influential(influence, keep), layers=count, influence=influence)
