"""The tables of a run for a terminal of 80 columns: the main task's with costs, those of further tasks without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from instil.core import units
from instil.run.report.metric_table import metric_table
from instil.run.report.parts import milliseconds
from instil.run.report.roles import reading_order, spoken
from instil.run.report.verdict import number, p_words, span

if TYPE_CHECKING:
    from rich.table import Table

    from instil.evaluate.results import Comparison, SystemResult

Cells = Callable[["SystemResult"], Sequence[str]]
_QUALITY = ("ROUGE\n-1", "ROUGE\n-2", "ROUGE-L\n(95%)", "kept of\nteacher")
_COSTS = ("p50\nms", "speed-\nup", "para-\nmeters", "MB")
_GAPS = ("difference\n(95%)", "p")


def terminal_table(comparison: Comparison) -> Table:
    """The comparison with what each system costs, n and the signature beneath."""
    return _table(comparison, _COSTS, _costs, "p50 at batch 1; ranges are 95% intervals", min_width=15)


def task_table(task: str, comparison: Comparison) -> Table:
    """Quality alone, with what each system differs from the one that all are held against."""
    from rich.text import Text

    against = f"; difference to {spoken(comparison.against)}" if comparison.against else ""
    table = _table(comparison, _GAPS, _gaps, f"ranges are 95% intervals{against}", min_width=14)
    table.title, table.title_justify = Text(f"\nTask {task}"), "left"
    return table


def terminal_tables(further: Mapping[str, Comparison]) -> Iterable[Table]:
    """The tables of each further task."""
    for task, comparison in further.items():
        yield task_table(task, comparison)
        if (table := metric_table(comparison)) is not None:
            yield table


def _table(comparison: Comparison, heads: Sequence[str], cells: Cells, note: str, *, min_width: int) -> Table:
    """Each system's quality, and its `cells` under `heads`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    caption = Text(f"n = {comparison.n:,}; {note}\n{comparison.signature}")
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", show_edge=False, padding=0)
    table.add_column("system", min_width=min_width, overflow="fold")
    for head in (*_QUALITY, *heads):
        table.add_column(head, justify="right", no_wrap=True)
    for one in reading_order(comparison):
        style = "bold" if one.name == comparison.student else ""
        table.add_row(Text(spoken(one.name)), *map(Text, (*_quality(one), *cells(one))), style=style)
    return table


def _quality(one: SystemResult) -> list[str]:
    return [
        number(one.rouge1.value),
        number(one.rouge2.value),
        f"{number(one.rougeL.value)} ({one.rougeL.low:.1f}–{one.rougeL.high:.1f})",
        f"{number(100 * one.retention.value)}%" if one.retention else "",
    ]


def _costs(one: SystemResult) -> list[str]:
    model = one.parameters > 0
    return [
        milliseconds(one.latency.p50.value) if one.latency else "",
        f"{number(one.speedup.value, 2)}×" if one.speedup and model else "",
        units.count(one.parameters) if model else "",
        number(one.bytes / 1e6) if model else "",
    ]


def _gaps(one: SystemResult) -> list[str]:
    gap = one.difference
    return [
        f"{number(gap.value, signed=True)} ({span(gap)})" if gap else "",
        p_words(one.p_value).removeprefix("p = ").replace("p < ", "<") if one.p_value is not None else "",
    ]
