"""Each further task of a comparison: its section of the page, its tables on the terminal. What systems cost is told by
the main task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from instil.run.report import parts
from instil.run.report.markup import Markup, element
from instil.run.report.metric_table import metric_table
from instil.run.report.roles import reading_order, spoken
from instil.run.report.verdict import headline, number, p_words, span

if TYPE_CHECKING:
    from rich.table import Table

    from instil.evaluate.results import Comparison, SystemResult


def contents(further: Mapping[str, Comparison]) -> Markup | None:
    """Which tasks stand further down the page, as links; None without any."""
    links = [element("a", task, href=f"#{_anchor(task)}") for task in further]
    if not links:
        return None
    shown = [part for link in links for part in (", ", link)][1:]
    return element("p", "What stands here is of the main task. Also examined: ", shown, ".", class_="note")


def task_section(task: str, comparison: Comparison) -> Markup:
    """What was found for one further task: in words, in a table, by its own metrics, and what was written."""
    note = f"n = {comparison.n:,}, outputs of at most {comparison.max_new_tokens} tokens. {comparison.signature}"
    lines = [part for remark in comparison.remarks for part in (element("br"), f"Note: {remark}")]
    return element(
        "section",
        element("h2", f"Task “{task}”", id=_anchor(task)),
        [element("p", sentence, class_="lead") for sentence in headline(comparison, cost=False)],
        element("p", note, lines, class_="note"),
        parts.quality_table(comparison, f"Quality of each system in task {task}"),
        parts.metrics(comparison, unfolded=True),
        parts.samples(comparison, unfolded=("drawn",)),
    )


def _anchor(task: str) -> str:
    return f"task-{task}"


def terminal_tables(further: Mapping[str, Comparison]) -> Iterable[Table]:
    """The tables of each further task, for a terminal of 80 columns."""
    for task, comparison in further.items():
        yield task_table(task, comparison)
        if (table := metric_table(comparison)) is not None:
            yield table


def task_table(task: str, comparison: Comparison) -> Table:
    """Quality alone, with what each system differs from the one that all are held against."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    against = f"; difference to {spoken(comparison.against)}" if comparison.against else ""
    caption = Text(f"n = {comparison.n:,}; ranges are 95% intervals{against}\n{comparison.signature}")
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(f"\nTask {task}"), title_justify="left", caption=caption,
        caption_justify="left", show_edge=False, padding=0,
    )  # fmt: skip
    table.add_column("system", min_width=14, overflow="fold")
    for head in ("ROUGE\n-1", "ROUGE\n-2", "ROUGE-L\n(95%)", "kept of\nteacher", "difference\n(95%)", "p"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in reading_order(comparison):
        style = "bold" if one.name == comparison.student else ""
        table.add_row(Text(spoken(one.name)), *map(Text, _cells(one)), style=style)
    return table


def _cells(one: SystemResult) -> list[str]:
    gap = one.difference
    return [
        number(one.rouge1.value),
        number(one.rouge2.value),
        f"{number(one.rougeL.value)} ({one.rougeL.low:.1f}–{one.rougeL.high:.1f})",
        f"{number(100 * one.retention.value)}%" if one.retention else "",
        f"{number(gap.value, signed=True)} ({span(gap)})" if gap else "",
        p_words(one.p_value).removeprefix("p = ").replace("p < ", "<") if one.p_value is not None else "",
    ]
