"""The way of an export: written aside, reloaded in its engine, compared, and only then given its name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from instil.core import console, publish, units
from instil.core.errors import ConfigError
from instil.export.engines import open_engine
from instil.export.engines.engine import Engine
from instil.export.formats import PRECISIONS, precision_of, write_format
from instil.export.formats.converting import saving
from instil.export.parity import (
    EXACT,
    PARITY_NAME,
    PROBES,
    TOLERANCES,
    Parity,
    ParityError,
    Probe,
    Scorer,
    compare,
    require,
)
from instil.export.place import place_of
from instil.export.rotation import can_rotate, rotate
from instil.export.sheet import Format
from instil.export.smoothing import is_rounded, smooth
from instil.export.student import Student
from instil.models.folders import quiet_transformers

_PROVED = 4
"""Probes that prove a conversion in full precision, before the precision that is asked for loosens the tolerance."""
_LONGEST = 64
_CALIBRATING = 16
"""Probes that show where activations are large; those that nothing is compared on, where there are enough."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A published export."""

    folder: Path
    parity: Parity
    bytes: int
    student_bytes: int


def export_student(
    student: Student, target: Format, out: Path, *, precision: str | None = None, probes: Sequence[Probe],
    scorer: Scorer | None = None, metric: str = "", force: bool = False,
) -> Exported:  # fmt: skip
    """Write `student` as `target` into `out`, if the reloaded export proves to be the student.

    Raises `ConfigError` where `out` holds anything but an earlier export, or that and `force` is off, `ParityError` for
    an export that differs too much; an old `out` stands until the new one does.
    """
    chosen = precision_of(target, precision)
    out = place_of(out, [Path(student.loaded.ref)], force=force)
    if not probes:
        raise ConfigError("there is nothing to compare on; give sources with --probes FILE")
    ways = _ways(student, probes) if (target, chosen) == ("ctranslate2", "int8") else {"as it is": lambda: student}
    attempt = partial(_published, student, target=target, precision=chosen, out=out, probes=probes, scorer=scorer,
                      metric=metric)  # fmt: skip
    *others, last = ways.values()
    for way, following in zip(others, list(ways)[1:], strict=True):
        try:
            return attempt(way())
        except ParityError as error:
            console.say(f"  {error.problem}; once more, {following}")
    return attempt(last())


def _published(
    student: Student, written: Student, *, target: Format, precision: str, out: Path, probes: Sequence[Probe],
    scorer: Scorer | None, metric: str,
) -> Exported:  # fmt: skip
    """`written`, which computes what `student` does, as the export `out`."""
    used = list(probes[:PROBES])
    longest = min(student.target_limit or _LONGEST, _LONGEST)
    if precision != "fp32" and "fp32" in PRECISIONS[target]:
        with publish.scratch_folder(out) as scratch:
            engine = _written(written, target, "fp32", scratch)
            proof = compare(student, engine, used[:_PROVED], tolerance=EXACT, max_new_tokens=longest)
            require(proof, f"{target} fp32, before {precision}")
    with publish.publish_folder(out) as aside:
        engine = _written(written, target, precision, aside)
        console.say(f"  {target} {precision}: {units.size(engine.bytes)}, comparing it on {len(used)} sources")
        parity = compare(
            student, engine, used, tolerance=TOLERANCES[precision], max_new_tokens=longest, scorer=scorer, metric=metric
        )
        require(parity, f"{target} {precision}")
        publish.write_text(aside / PARITY_NAME, json.dumps(parity.json(), indent=2, ensure_ascii=False) + "\n")
        size = engine.bytes
    return Exported(out, parity, size, student.generator.bytes)


def _ways(student: Student, probes: Sequence[Probe]) -> dict[str, Callable[[], Student]]:
    """Models that compute what `student` does, by what was done to them so that they bear eight bits better:
    CTranslate2 rounds activations too, not weights alone. What costs least is first."""
    model = student.loaded.model
    turns = can_rotate(model)
    ways: dict[str, Callable[[], Student]] = {}
    if is_rounded(model):
        ways["as it is"] = lambda: student
    if model.config.tie_word_embeddings or not turns:
        ways["smoothed"] = lambda: _calmed(student, model, probes)
    if turns:
        ways["its channels turned, with a head of its own"] = lambda: _calmed(student, rotate(model), probes)
    return ways


def _calmed(student: Student, model: Any, probes: Sequence[Probe]) -> Student:
    """`student` with its weights as in `model`, smoothed."""
    seen = probes[PROBES : PROBES + _CALIBRATING] or probes[:_CALIBRATING]
    prompts = [student.read(probe.source) for probe in seen]
    loaded = dataclasses.replace(student.loaded, model=smooth(model, prompts))
    return dataclasses.replace(student, loaded=loaded)


def _written(student: Student, target: Format, precision: str, folder: Path) -> Engine:
    with saving(folder):
        write_format(student, target, precision, folder)
        with quiet_transformers():
            student.loaded.tokenizer.save_pretrained(folder)
            student.loaded.model.generation_config.save_pretrained(folder)
        student.sheet(target, precision).write(folder)
    return open_engine(folder)
