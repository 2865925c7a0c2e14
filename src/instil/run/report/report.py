"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from instil.core import publish
from instil.run.report import charts, slice_charts, tasks
from instil.run.report import parts as report_parts
from instil.run.report.markup import Child, Markup, element
from instil.run.report.roles import role_of
from instil.run.report.verdict import headline, key_figures

if TYPE_CHECKING:
    from instil.evaluate.results import Comparison

REPORT_NAME = "report.html"
# No script runs and nothing is fetched, whatever the data or a model may have written.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(
    folder: Path,
    *,
    title: str,
    comparison: Comparison,
    curves: charts.Curves,
    facts: Sequence[tuple[str, str]],
    next_command: str,
    further: Mapping[str, Comparison] | None = None,
) -> Path:
    """Write `folder/report.html` in one step and return its path.

    `curves`: by run, usually named like a system, its history: a mapping a step with `elapsed_s`, `hard` (nats a
    token) and perhaps `validation_loss`. `facts`: names and values on how it was made; what `comparison` knows is
    added. `next_command`: what to type next. `further`: comparisons of further tasks, by task. All text is escaped.
    Raises `StorageError` when the disk refuses.
    """
    body = element(
        "main",
        _opening(title, comparison, further or {}),
        _table_section(comparison),
        _charts_section(comparison, curves),
        _slices_section(comparison),
        _samples_section(comparison),
        [tasks.task_section(task, found) for task, found in (further or {}).items()],
        _facts_section(comparison, facts),
        _next_section(next_command),
    )
    path = folder / REPORT_NAME
    publish.write_text(path, page(title, body))
    return path


def page(title: str, body: Markup) -> str:
    """`body` as a whole document that needs nothing else."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(resources.files("instil.run.report").joinpath("report.css").read_text("utf8"))),
    )
    return f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"


def _opening(title: str, comparison: Comparison, further: Mapping[str, Comparison]) -> Markup:
    first, *others = headline(comparison)
    shown = key_figures(comparison)
    note = f"{comparison.n:,} test items. Ranges are 95% intervals; “within chance” means that they cannot tell."
    return element(
        "header",
        element("p", title, class_="title"),
        element("h1", first),
        [element("p", sentence, class_="lead") for sentence in others],
        report_parts.figures(shown) if shown else None,
        element("p", note, class_="note"),
        tasks.contents(further),
    )


def section(heading: str, *children: Child) -> Markup:
    return element("section", element("h2", heading), *children)


def _table_section(comparison: Comparison) -> Markup:
    note = f"n = {comparison.n:,}. p50 is the median time for one text. Beneath a number stands its 95% interval."
    return section(
        "What was gained and lost",
        report_parts.main_table(comparison),
        element("p", note, element("br"), f"ROUGE: {comparison.signature}", class_="note"),
        report_parts.more_numbers(comparison),
        report_parts.metrics(comparison),
    )


def _charts_section(comparison: Comparison, curves: charts.Curves) -> Markup | None:
    taught = [name for name in curves if role_of(comparison, name) == "teacher"]
    students = [name for name in curves if name not in taught]
    figures = (
        figure("How they learned", _LEARNED, charts.learning_curves(comparison, curves, students, key="learned")),
        figure("Latency against quality", _TRADED, charts.latency_against_quality(comparison, key="traded")),
        figure("The spread behind the mean", _SPREAD, charts.score_spread(comparison, key="spread")),
        figure("The spread of latency", _WAITED, slice_charts.latency_spread(comparison, key="waited")),
        figure("How the teacher learned", _LEARNED, charts.learning_curves(comparison, curves, taught, key="taught")),
    )
    shown = [figure for figure in figures if figure]
    return section("In pictures", element("div", shown, class_="charts")) if shown else None


_LEARNED = (
    "Lines: training cross-entropy against the reference, averaged over neighbouring steps; behind them the single "
    "steps. Marks: held-out examples. Lower is better; the steep beginning may leave the frame."
)
_TRADED = "Better is up and to the left. Bars: 95% intervals. Dashed levels: baselines without a model."
_WAITED = "The share of texts that were answered within a time, one text at a time. A flat end is a slow tail."
_SPREAD = "How many items got which ROUGE-L. The same mean can hide a few disasters or many small losses."


def figure(title: str, caption: str, chart: Markup | None) -> Markup | None:
    if chart is None:
        return None
    return element("figure", element("h3", title), chart, element("figcaption", caption))


def _slices_section(comparison: Comparison) -> Markup | None:
    kinds = dict.fromkeys(one.kind for one in comparison.slices)
    shown = [
        figure(
            f"By {kind.removesuffix(', %')}",
            report_parts.slice_words([one for one in comparison.slices if one.kind == kind]),
            slice_charts.by_slice([one for one in comparison.slices if one.kind == kind], key=f"slice{number}"),
        )
        for number, kind in enumerate(kinds)
    ]
    return section("Where the student is worse", element("div", shown, class_="charts")) if shown else None


def _samples_section(comparison: Comparison) -> Markup | None:
    groups = report_parts.samples(comparison)
    if groups is None:
        return None
    note = (
        "The number beside a name is this output’s ROUGE-L. Underlined: words that the reference has too. Where the "
        "student is worst, a line shows what it left out of the reference (struck) and put in (marked)."
    )
    return section("Side by side", element("p", note, class_="note"), groups)


def _facts_section(comparison: Comparison, facts: Sequence[tuple[str, str]]) -> Markup:
    told = {name.casefold() for name, _ in facts}
    added = [(name, value) for name, value in report_parts.facts_of(comparison) if name.casefold() not in told]
    return section("How it was made", report_parts.facts([*facts, *added]))


def _next_section(command: str) -> Markup:
    return section("Next", element("p", "Type this to go on:"), element("pre", element("code", command)))
