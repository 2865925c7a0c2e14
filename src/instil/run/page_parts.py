"""What a run adds to the page: texts of its test set, its report, its plan, and pairs of outputs to judge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instil.core import console
from instil.core.errors import InstilError
from instil.evaluate.judgement import Judgements, pairs_of
from instil.evaluate.outputs import load_outputs
from instil.models.loading import locate
from instil.run.report.report import REPORT_NAME
from instil.run.servable import SUMMARY_NAME, asked_records, teacher_ref
from instil.serve.page.page import Around, PlanOf

JUDGEMENTS_NAME = "judgements.sqlite"
_EXAMPLES = 20
_PAIRS = 100
_EVALUATED = ("student", "teacher")


def around_of(run: Path) -> Around:
    """All that the folder of a run has for the page."""
    summary: Mapping[str, Any] = json.loads((run / SUMMARY_NAME).read_text(encoding="utf8"))
    stages = {name: run / folder for name, folder in summary.get("stages", {}).items()}
    report = run / REPORT_NAME
    return Around(
        title=f"{summary.get('recipe', run.name)}: student and teacher",
        examples=_examples(stages.get("data")),
        report=report.read_text(encoding="utf8") if report.is_file() else None,
        plan=_plan(stages),
        judgements=_judgements(run, stages.get("evaluation")),
    )  # fmt: skip


def _examples(data: Path | None) -> tuple[str, ...]:
    if data is None or not (data / "test.jsonl").is_file():
        return ()
    return tuple(record.source for record in asked_records(data)[:_EXAMPLES])


def _judgements(run: Path, evaluation: Path | None) -> Judgements | None:
    """The pairs of student and teacher, drawn when they are first asked for."""
    path = run / JUDGEMENTS_NAME
    if path.is_file():
        return Judgements(path)
    if evaluation is None:
        return None
    try:
        columns = {name: load_outputs(evaluation / "outputs" / f"{name}.jsonl") for name in _EVALUATED}
        pairs, identical = pairs_of(columns, *_EVALUATED, count=_PAIRS)
        return Judgements.create(path, pairs, identical=identical)
    except InstilError as error:
        console.say(f"nothing to judge: {error}")
        return None


def _plan(stages: Mapping[str, Path]) -> PlanOf | None:
    """The plan for this student and its teacher, by their own config files, on rented machines."""
    place = stages.get("student")
    if place is None:
        return None
    manifest = json.loads((place / "manifest.json").read_text(encoding="utf8"))
    teacher = teacher_ref(place)
    examples = str(manifest["result"].get("examples") or _count(stages.get("data")))

    def plan(requests: str) -> tuple[str, str]:
        from instil.plan.answer import answer, lines
        from instil.run.commands.plan_wish import wish_of
        from instil.run.report.plan_plot import break_even_svg

        asked = {
            "teacher": str(locate(teacher).folder / "config.json"),
            "student": str(place / "model" / "config.json"),
        }
        found = answer(wish_of(None, asked, examples=examples, requests_per_day=requests))
        try:
            drawing = break_even_svg(found.paying)
        except InstilError:
            drawing = ""  # Nothing to draw; the lines say why.
        return "\n".join(lines(found)), drawing

    return plan


def _count(data: Path | None) -> int:
    path = data / "train.jsonl" if data else None
    return sum(1 for _ in path.open("rb")) if path and path.is_file() else 1000
