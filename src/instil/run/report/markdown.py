"""The comparison as Markdown: for a pull request, and for the results in a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from instil.core import units
from instil.run.report.metric_table import further as further_metrics
from instil.run.report.metric_table import headed, said
from instil.run.report.parts import milliseconds
from instil.run.report.roles import reading_order, spoken
from instil.run.report.verdict import headline, number, p_words, span

if TYPE_CHECKING:
    from instil.evaluate.results import Comparison, SystemResult

_QUALITY = ("system", "ROUGE-1", "ROUGE-2", "ROUGE-L (95%)", "kept of teacher")
_HEADS = (*_QUALITY, "p50, ms", "speed-up", "parameters", "MB")


def markdown(comparison: Comparison, further: Mapping[str, Comparison] | None = None) -> str:
    """The verdict, the table, and how it was counted; then each of the `further` tasks."""
    note = f"n = {comparison.n:,}; p50 at batch 1; ranges are 95% intervals; `{comparison.signature}`"
    tasks = [part for task, found in (further or {}).items() for part in _task(task, found)]
    return "\n\n".join([" ".join(headline(comparison)), results_table(comparison), note, *tasks]) + "\n"


def _task(task: str, comparison: Comparison) -> list[str]:
    """A further task: its verdict, its table, and its own metrics."""
    against = f"against {spoken(comparison.against)}" if comparison.against else "difference"
    rows = [[*_quality_cells(one), _gap(one)] for one in reading_order(comparison)]
    found = [f"### Task {task}", " ".join(headline(comparison, cost=False)), table((*_QUALITY, against), rows)]
    if names := further_metrics(comparison):
        systems = [one for one in reading_order(comparison) if not one.is_baseline]
        lines = [[headed(comparison, name), *(_metric(one, name) for one in systems)] for name in names]
        found.append(table(("metric", *(spoken(one.name) for one in systems)), lines))
    return [*found, f"n = {comparison.n:,}; ranges are 95% intervals; `{comparison.signature}`"]


def _metric(one: SystemResult, name: str) -> str:
    return "{} ({})".format(*said(one.metrics[name])) if name in one.metrics else ""


def _gap(one: SystemResult) -> str:
    if one.difference is None or one.p_value is None:
        return ""
    return f"{number(one.difference.value, signed=True)} ({span(one.difference, signed=True)}), {p_words(one.p_value)}"


def results_table(comparison: Comparison) -> str:
    """Quality and cost, a system a row."""
    return table(_HEADS, [_cells(one) for one in reading_order(comparison)])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _quality_cells(one: SystemResult) -> list[str]:
    kept = one.retention
    return [
        spoken(one.name),
        number(one.rouge1.value),
        number(one.rouge2.value),
        f"{number(one.rougeL.value)} ({span(one.rougeL)})",
        f"{number(100 * kept.value)}% ({span(kept, times=100)})" if kept else "",
    ]


def _cells(one: SystemResult) -> list[str]:
    model, speed = one.parameters > 0, one.speedup
    return [
        *_quality_cells(one),
        milliseconds(one.latency.p50.value) if one.latency else "",
        f"{number(speed.value, 2)}× ({span(speed, digits=2)})" if speed and model else "",
        units.count(one.parameters) if model else "",
        number(one.bytes / 1e6) if model else "",
    ]
