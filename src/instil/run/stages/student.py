"""Stage `student`: the student before it learns, built out of the teacher or loaded as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from instil.core import console
from instil.core.errors import ConfigError
from instil.data.tokens import Encoded, Limits, encode_records
from instil.models.family import family_of
from instil.models.layers import Side, stack_of
from instil.models.loading import LoadedModel, Located, load_model, load_tokenizer, locate
from instil.models.students import depth
from instil.models.students.refit import Mended, mend_cuts
from instil.run.recipe import Recipe, StudentConfig
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.made_models import keep_model
from instil.run.stages.teach import Teacher, encode

_PROBED = 50


def run_student(shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher) -> Artifact:
    """The artifact whose `model` folder is the untrained student."""
    section = recipe.student
    if section is None:
        raise ConfigError("the recipe has no student section; add one, for example student: {layers: 12}")
    place = check_student(recipe)
    if place is not None:
        inputs, read = {"student": place.fingerprint}, {}
    else:
        inputs = {"teacher": teacher.fingerprint, "data": data.fingerprint}
        read = {"prompt": recipe.prompt.model_dump(mode="json"), "limits": recipe.limits.model_dump(mode="json")}
    return shop.stage(
        "student",
        lambda folder: _build(recipe, section, data, teacher, folder),
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
    token, so they would be of no use to it."""
    section, distil = recipe.student, recipe.distil
    if section is None or section.model is None or distil is None or not distil.alpha:
        return
    limits = Limits(source=recipe.limits.source, target=recipe.limits.target)
    read = []
    for model, revision in ((recipe.teacher.model, recipe.teacher.revision), (section.model, section.revision)):
        tokenizer, kind = load_tokenizer(model, revision=revision, accept_licences=recipe.accept_licences)
        read.append(encode_records(tokenizer, recipe.prompt, data.splits["train"][:_PROBED], limits, kind)[0])
    for theirs, own in zip(*read, strict=True):
        if theirs != own:
            counts = [f"{len(e.prompt_ids)} tokens and {len(e.target_ids)} of target" for e in (theirs, own)]
            raise ConfigError(
                f"student.model {section.model} reads record {own.id!r} in other tokens than the teacher ({counts[1]};"
                f" the teacher {counts[0]}), so labels do not fit it; choose a student with the teacher's tokenizer, or"
                " learn from its texts alone: distil.alpha: 0 and labels.targets: teacher"
            )


def _build(recipe: Recipe, section: StudentConfig, data: Data, teacher: Teacher, folder: Path) -> Mapping[str, Any]:
    if section.model is not None:
        loaded = load_model(section.model, revision=section.revision, accept_licences=recipe.accept_licences)
        return {"parameters": loaded.model.num_parameters(), **keep_model(loaded.model, loaded.tokenizer, folder)}
    loaded = teacher.loaded
    model, reports = loaded.model.cpu(), {}
    examples: list[Encoded] = []
    if section.mend or section.choice in ("block-influence", "greedy"):
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
    return {"parameters": model.num_parameters(), "depth": reports, **keep_model(model, loaded.tokenizer, folder)}


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
    with console.progress(f"  choosing {side} layers", max(count - keep, 0), "removed") as advance:
        return depth.choose_layers(
            loaded.model, family_of(loaded.model), examples, keep, choice=cast(depth.Choice, section.choice),
            side=side, advance=advance,
        )  # fmt: skip
