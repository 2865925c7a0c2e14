"""Every metric of every system, for the terminal: more than fits into the main table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instil.run.report.roles import reading_order, spoken
from instil.run.report.verdict import number, span

if TYPE_CHECKING:
    from rich.table import Table

    from instil.evaluate.metric import Score
    from instil.evaluate.results import Comparison

_ALREADY_SHOWN = ("rouge1", "rouge2", "rougeL")
_ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


def metric_table(comparison: Comparison) -> Table | None:
    """A metric a row, a system a column: value and 95% interval, with a star where it differs from the system that all
    are held against by more than chance. None where nothing but ROUGE-1, -2 and -L was measured."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    systems = reading_order(comparison)
    names = list(dict.fromkeys(name for one in systems for name in one.metrics if name not in _ALREADY_SHOWN))
    if not names:
        return None
    note = f"* differs from {spoken(comparison.against)}: p < 0.05 after Holm\n" if comparison.against else ""
    caption = Text(f"{note}better: ↑ higher, ↓ lower; signatures stand in summary.json")
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", show_edge=False, padding=(0, 1))
    table.add_column("metric", overflow="fold")
    for one in systems:
        table.add_column(spoken(one.name), justify="right", overflow="fold")
    for name in names:
        scores = [one.metrics.get(name) for one in systems]
        first = next(score for score in scores if score)
        head = f"{spoken(name)}, {first.unit} {_ARROWS[first.better]}".rstrip()
        table.add_row(head, *(_cell(score) if score else "" for score in scores))
    return table


def _cell(score: Score) -> str:
    digits = 1 if score.unit == "%" else 2
    star = "*" if score.p_adjusted is not None and score.p_adjusted < 0.05 else ""
    return f"{number(score.value, digits)}{star}\n{span(score, digits=digits)}"
