"""A comparison of ways on paper: the page, the table for a terminal, and the same for a pull request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from instil.core import publish, units
from instil.evaluate.significance import Interval
from instil.run.compare.words import told
from instil.run.report.charts import LATENCY, Dot, against_quality, mark
from instil.run.report.markdown import table
from instil.run.report.markup import Markup, element
from instil.run.report.parts import milliseconds
from instil.run.report.report import figure, page, section
from instil.run.report.roles import Role
from instil.run.report.verdict import number, p_words, span
from instil.run.stages.evaluate import TEACHER

if TYPE_CHECKING:
    from rich.table import Table

    from instil.evaluate.results import Comparison
    from instil.evaluate.ways import WayResult, Ways

REPORT_NAME = "compare.html"
HEADS = (
    "way", "ROUGE-L (95%)", "by seed", "difference (95%)", "p, corrected", "training", "a step", "tokens",
    "parameters", "p50, ms", "speed-up",
)  # fmt: skip
_NONE = "–"


def cells(ways: Ways, way: WayResult) -> list[str]:
    """A row of the table: a text for each of `heads`."""
    p50, speed, gap = way.latency.p50 if way.latency else None, way.speedup, way.difference
    return [
        way.name,
        f"{number(way.score.value)} ({span(way.score)})",
        ", ".join(number(each) for each in way.by_seed),
        f"{number(gap.value, signed=True)} ({span(gap, signed=True)})" if gap else _NONE,
        p_words(way.p_corrected).removeprefix("p = ").removeprefix("p ") if way.p_corrected is not None else _NONE,
        units.seconds(way.train_seconds) if way.train_seconds else _NONE,
        units.seconds(way.step_seconds) if way.step_seconds else _NONE,
        units.count(round(way.tokens)) if way.tokens else _NONE,
        units.count(way.parameters),
        milliseconds(p50.value) if p50 else _NONE,
        f"{number(speed.value, 2)}×" if speed else _NONE,
    ] + ([f"{way.usd:.2f}" if way.usd is not None else _NONE] if _priced(ways) else [])


def heads(ways: Ways) -> tuple[str, ...]:
    """The table's columns; money where the comparison knows what an hour costs."""
    return (*HEADS, "USD") if _priced(ways) else HEADS


def _priced(ways: Ways) -> bool:
    return any(way.usd is not None for way in ways.ways)


def note(ways: Ways) -> str:
    """What the table's numbers are."""
    seeds = ways.ways[0].seeds
    return (
        f"n = {ways.n:,} items, {seeds} seeds; intervals draw items and seeds; p: approximate randomisation over items,"
        f" corrected for {len(ways.all) - 1} comparisons (Holm). Differences: against “{ways.against}”."
    )


def terminal_table(ways: Ways) -> Table:
    """The ways for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        box=box.SIMPLE_HEAD, caption=Text(f"{note(ways)}\n{ways.signature}"), caption_justify="left", padding=0
    )
    for head in heads(ways):
        shown.add_column(head, justify="left" if head == "way" else "right", overflow="fold")
    for way in ways.all:
        shown.add_row(*map(Text, cells(ways, way)))
    return shown


def markdown(ways: Ways) -> str:
    """The sentences and the table, for a pull request."""
    rows = table(heads(ways), [cells(ways, way) for way in ways.all])
    return "\n\n".join([" ".join(told(ways)), rows, note(ways)]) + "\n"


def write_report(folder: Path, *, title: str, ways: Ways, comparison: Comparison, next_command: str) -> Path:
    """Write `folder/compare.html`, which needs nothing else, in one step; returns its path."""
    first, *others = told(ways)
    header = element(
        "header",
        element("p", title, class_="title"),
        element("h1", first),
        [element("p", sentence, class_="lead") for sentence in others],
    )
    body = element(
        "main",
        header,
        section("The ways", _table(ways), element("p", note(ways), element("br"), ways.signature, class_="note")),
        section("In pictures", element("div", _charts(ways, comparison), class_="charts")),
        section("Next", element("pre", element("code", next_command))),
    )
    path = folder / REPORT_NAME
    publish.write_text(path, page(title, body))
    return path


def role_of(ways: Ways, name: str) -> Role:
    """The best way stands out as the student does; the one held against keeps its mark."""
    if name == ways.against:
        return "against"
    return "student" if name == ways.best.name else "teacher" if name == TEACHER else "other"


def _table(ways: Ways) -> Markup:
    head = element("tr", [element("th", words, scope="col") for words in heads(ways)])
    rows = [element("tr", _row_head(ways, way), _cells(ways, way), class_=role_of(ways, way.name)) for way in ways.all]
    drawn = element("table", element("thead", head), element("tbody", rows))
    return element("div", drawn, class_="scrolls", tabindex="0", role="region", aria_label="The ways")


def _row_head(ways: Ways, way: WayResult) -> Markup:
    drawn = mark(role_of(ways, way.name), 6, 6, size=3.8)
    key = element("svg", drawn, viewBox="0 0 12 12", class_="key", aria_hidden="true")
    return element("th", element("span", key, way.name), scope="row")


def _cells(ways: Ways, way: WayResult) -> list[Markup]:
    """As `cells`, the intervals beneath their values."""
    found = []
    for text in cells(ways, way)[1:]:
        value, _, beneath = text.partition(" (")
        found.append(element("td", value, element("small", beneath.rstrip(")")) if beneath else None))
    return found


def _charts(ways: Ways, comparison: Comparison) -> list[Markup | None]:
    levels = {one.name: one.rougeL.value for one in comparison.systems if one.is_baseline}
    timed = [Dot(way.name, role_of(ways, way.name), way.latency.p50, way.score) for way in ways.all if way.latency]
    trained = [
        Dot(way.name, role_of(ways, way.name), _exactly((way.train_seconds + way.prepare_seconds) / 60), way.score)
        for way in ways.ways
        if way.train_seconds
    ]
    fast = against_quality(timed, levels, key="latency", title="Latency against quality", cost=LATENCY, unit="ms")
    spent = against_quality(
        trained, levels, key="training", title="Training time against quality",
        cost="minutes of training, with the teacher's work before it", unit="minutes",
    )  # fmt: skip
    better = "Better is up and to the left. Bars: 95% intervals. Dashed levels: baselines without a model."
    return [figure("Latency against quality", better, fast), figure("Training time against quality", better, spent)]


def _exactly(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)
