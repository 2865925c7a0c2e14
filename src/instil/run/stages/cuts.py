"""The student as a smaller teacher: which layers it keeps, the cuts mended, then its widths. Each says what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from instil.core import console
from instil.core.errors import ConfigError
from instil.data.tokens import Encoded
from instil.models.family import family_of
from instil.models.layers import Side, stack_of
from instil.models.students import depth
from instil.models.students.plan import Widths
from instil.models.students.refit import Mended, mend_cuts
from instil.models.students.sizes import changes
from instil.models.students.width import WidthReport, cut_width
from instil.run.recipe import StudentConfig
from instil.run.stages.teach import Teacher


def kept_layers(section: StudentConfig, teacher: Teacher) -> StudentConfig:
    """`section` with the layers listed that the teacher was taught to do with, where it asks for those."""
    if section.choice != "taught":
        return section
    result = teacher.artifact.manifest.result if teacher.artifact else {}
    if "layer_drop" not in result:
        raise ConfigError("student.choice is taught, but the teacher was not; add teacher.teach.layer_drop: {keep: N}")
    return section.model_copy(update={"keep": tuple(result["layer_drop"])})


def cut_depth(section: StudentConfig, model: Any, examples: Sequence[Encoded]) -> tuple[Any, dict[str, Any]]:
    """`model` with fewer layers on each side that `section` names, and the report of each side."""
    reports: dict[str, Any] = {}
    for side, keep in _wanted(section).items():
        report = _choose(section, model, examples, side, keep)
        console.say(f"  keeps {side} layers {', '.join(map(str, report.kept))} of {report.layers}")
        shorter = depth.keep_layers(model, report.kept, side=side)
        reports[side] = asdict(report)
        if section.mend:
            mended = _mend(examples, shorter, model, report.kept, side)
            reports[side]["mended"] = [asdict(cut) for cut in mended]
        model = shorter
    return model, reports


def cut_widths(widths: Widths, model: Any, examples: Sequence[Encoded], *, mend: bool) -> tuple[Any, WidthReport]:
    """`model` with the `widths`, and what of its importance that keeps."""
    student, report = cut_width(model, widths, family_of(model), examples, mend=mend)
    console.say(
        f"  {changes(asdict(report.teacher), asdict(report.student)) or 'all widths stay'}; of the importance stay"
        f" {report.kept_hidden:.0%} of the hidden channels', {report.kept_units:.0%} of the units' and"
        f" {report.kept_heads:.0%} of the heads'"
    )
    return student, report


def _wanted(section: StudentConfig) -> dict[Side, int]:
    wanted: dict[Side, int] = {}
    if section.encoder_layers is not None:
        wanted["encoder"] = section.encoder_layers
    if section.layers is not None or section.keep is not None:
        wanted["decoder"] = section.layers or len(section.keep or ())
    return wanted


def _choose(
    section: StudentConfig, model: Any, examples: Sequence[Encoded], side: Side, keep: int
) -> depth.DepthReport:
    count = len(stack_of(model, side).layers)
    if section.keep is not None and side == "decoder":
        return depth.DepthReport(kept=section.keep, layers=count)
    with console.progress(f"  choosing {side} layers", max(count - keep, 0), "removed") as advance:
        return depth.choose_layers(
            model, family_of(model), examples, keep, choice=cast(depth.Choice, section.choice), side=side,
            advance=advance,
        )  # fmt: skip


def _mend(examples: Sequence[Encoded], student: Any, whole: Any, kept: Sequence[int], side: Side) -> Sequence[Mended]:
    mended = mend_cuts(student, whole, kept, family_of(whole), examples, side=side)
    if mended:
        worst = max(mended, key=lambda layer: layer.error_before)
        console.say(
            f"  refitted {len(mended)} layers; at worst (layer {worst.layer}) the squared error goes from"
            f" {worst.error_before:.1%} to {worst.error_after:.1%} of the hidden state"
        )
    return mended
