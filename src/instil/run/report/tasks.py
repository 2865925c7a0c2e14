"""Each further task of a comparison: its section of the page. What systems cost is told by the main task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from instil.run.report import parts
from instil.run.report.markup import Markup, element
from instil.run.report.verdict import headline

if TYPE_CHECKING:
    from instil.evaluate.results import Comparison


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
