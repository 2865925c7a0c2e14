"""Every metric beside the main table's: of all models for the terminal, of every system for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instil.run.report.roles import reading_order, spoken
from instil.run.report.verdict import CHANCE, number, span

if TYPE_CHECKING:
    from rich.table import Table

    from instil.evaluate.metric import Score
    from instil.evaluate.results import Comparison

_ALREADY_SHOWN = ("rouge1", "rouge2", "rougeL")
_ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


def metric_table(comparison: Comparison) -> Table | None:
    """A metric a row, a column for each system but the trivial ones: value and 95% interval, with a star where it
    differs from the system that all are held against by more than chance. None where nothing but ROUGE-1, -2 and -L
    was measured."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = further(comparison)
    every = reading_order(comparison)
    systems = [one for one in every if not one.is_baseline] or every
    if not names:
        return None
    note = f"* differs from {spoken(comparison.against)}: p < 0.05 after Holm\n" if comparison.against else ""
    caption = Text(f"{note}better: ↑ higher, ↓ lower; signatures stand in summary.json")
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", show_edge=False, padding=(0, 1))
    table.add_column("metric", no_wrap=True)
    for one in systems:
        table.add_column(spoken(one.name), justify="right", overflow="fold")
    for name in names:
        cells = (said(one.metrics[name]) if name in one.metrics else () for one in systems)
        table.add_row(headed(comparison, name), *map("\n".join, cells))
    return table


def further(comparison: Comparison) -> list[str]:
    """The metrics beside ROUGE-1, -2 and -L, in the order in which they were asked for."""
    every = (name for one in reading_order(comparison) for name in one.metrics)
    return [name for name in dict.fromkeys(every) if name not in _ALREADY_SHOWN]


def headed(comparison: Comparison, name: str) -> str:
    """The metric with its unit and which way is better."""
    first = next(one.metrics[name] for one in comparison.systems if name in one.metrics)
    return f"{spoken(name)}, {first.unit} {_ARROWS[first.better]}".rstrip()


def said(score: Score) -> tuple[str, str]:
    """The value, with a star where it differs by more than chance, and its interval."""
    digits = 1 if score.unit == "%" else 2
    star = "*" if score.p_adjusted is not None and score.p_adjusted < CHANCE else ""
    return f"{number(score.value, digits)}{star}", span(score, digits=digits)
