"""The comparison as Markdown: for a pull request, and for the results in a model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from instil.core import units
from instil.run.report.parts import milliseconds
from instil.run.report.roles import reading_order, spoken
from instil.run.report.verdict import headline, number, span

if TYPE_CHECKING:
    from instil.evaluate.results import Comparison, SystemResult

_HEADS = ("system", "ROUGE-1", "ROUGE-2", "ROUGE-L (95%)", "kept of teacher", "p50, ms", "speed-up", "parameters", "MB")


def markdown(comparison: Comparison) -> str:
    """The verdict, the table, and how it was counted."""
    note = f"n = {comparison.n:,}; p50 at batch 1; ranges are 95% intervals; `{comparison.signature}`"
    return "\n\n".join([" ".join(headline(comparison)), results_table(comparison), note]) + "\n"


def results_table(comparison: Comparison) -> str:
    """Quality and cost, a system a row."""
    return table(_HEADS, [_cells(one) for one in reading_order(comparison)])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _cells(one: SystemResult) -> list[str]:
    model = one.parameters > 0
    kept, speed = one.retention, one.speedup
    return [
        spoken(one.name),
        number(one.rouge1.value),
        number(one.rouge2.value),
        f"{number(one.rougeL.value)} ({span(one.rougeL)})",
        f"{number(100 * kept.value)}% ({span(kept, times=100)})" if kept else "",
        milliseconds(one.latency.p50.value) if one.latency else "",
        f"{number(speed.value, 2)}× ({span(speed, digits=2)})" if speed and model else "",
        units.count(one.parameters) if model else "",
        number(one.bytes / 1e6) if model else "",
    ]
