"""The report's parts in HTML: key figures, tables, sample outputs, facts, the next command."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from instil.core import units
from instil.run.report.charts import mark, whisker
from instil.run.report.markup import Markup, element, joined
from instil.run.report.metric_table import further, headed, said
from instil.run.report.roles import reading_order, role_of, spoken
from instil.run.report.verdict import Figure, number, p_words, span

if TYPE_CHECKING:
    from instil.evaluate.examples import Example
    from instil.evaluate.results import Comparison, SystemResult
    from instil.evaluate.significance import Interval
    from instil.evaluate.slices import Slice

_SOURCE_SHOWN = 320
_NONE = "–"
_QUALITY_HEADS = ("system", "ROUGE-1", "ROUGE-2", "ROUGE-L", "95% interval", "kept of teacher")
_COST_HEADS = ("p50, ms", "speed-up", "parameters", "MB")
GROUPS = {
    "drawn": ("Drawn at random", "A fair look: nobody chose these."),
    "worst": ("Worst", "Where the student’s ROUGE-L is lowest."),
    "best": ("Best", "Where the student’s ROUGE-L is highest."),
    "behind": ("Farthest behind the teacher", "Where the student loses the most against its teacher."),
    "ahead": ("Farthest ahead of the teacher", "Where the student gains the most over its teacher."),
}


def figures(shown: Sequence[Figure]) -> Markup:
    """Key figures in a row, each with its evidence and, in words, whether it is a gain."""
    return element("ul", [_figure(one) for one in shown], class_="figures")


def _figure(one: Figure) -> Markup:
    return element(
        "li",
        element("span", one.tone, class_="tone"),
        element("strong", one.value),
        element("span", one.label, class_="label"),
        element("small", one.evidence),
        class_=one.tone.replace(" ", "-"),
    )


def main_table(comparison: Comparison) -> Markup:
    """Quality and cost, a system a row; ROUGE-L with its interval in words and drawn."""
    scale = _scale(comparison)
    rows = [(one, [*_quality_cells(comparison, one, scale), *_cost_cells(one)]) for one in reading_order(comparison)]
    return systems_table(comparison, "Quality and cost of each system", (*_QUALITY_HEADS, *_COST_HEADS), rows)


def quality_table(comparison: Comparison, caption: str) -> Markup:
    """Quality alone, a system a row, with its difference to the one that all are held against."""
    scale = _scale(comparison)
    rows = [(one, [*_quality_cells(comparison, one, scale), gap_cell(one)]) for one in reading_order(comparison)]
    return systems_table(comparison, caption, (*_QUALITY_HEADS, _against(comparison)), rows)


def _scale(comparison: Comparison) -> tuple[float, float]:
    """What the drawn intervals of ROUGE-L reach from and to."""
    ends = [end for one in comparison.systems for end in (one.rougeL.low, one.rougeL.high)]
    return (min(ends), max(ends)) if min(ends) < max(ends) else (min(ends) - 1, max(ends) + 1)


def _quality_cells(comparison: Comparison, one: SystemResult, scale: tuple[float, float]) -> list[Markup]:
    drawn = whisker(one.rougeL.low, one.rougeL.value, one.rougeL.high, scale=scale, role=role_of(comparison, one.name))
    kept = one.retention
    return [
        cell(number(one.rouge1.value)),
        cell(number(one.rouge2.value)),
        cell(number(one.rougeL.value), span(one.rougeL)),
        element("td", drawn, class_="drawn"),
        cell(f"{number(100 * kept.value)}%", f"{span(kept, times=100)}%") if kept else cell(_NONE),
    ]


def _cost_cells(one: SystemResult) -> list[Markup]:
    p50 = one.latency.p50 if one.latency else None
    return [
        cell(milliseconds(p50.value), f"{milliseconds(p50.low)} to {milliseconds(p50.high)}") if p50 else cell(_NONE),
        _speed_cell(one, one.speedup),
        cell(units.count(one.parameters) if one.parameters else _NONE),
        cell(number(one.bytes / 1e6) if one.parameters else _NONE),
    ]


def _speed_cell(one: SystemResult, speed: Interval | None) -> Markup:
    if speed is None or not one.parameters:
        return cell(_NONE)
    return cell(f"{number(speed.value, 2)}×", span(speed, digits=2))


def milliseconds(value: float) -> str:
    """Three figures at most, and no more than hundredths: "812", "8.12", "0.04"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def more_numbers(comparison: Comparison) -> Markup:
    """What the main table leaves out, folded away."""
    costs = ("p95, ms", "items a second", "peak memory", "words an output", "empty outputs")
    heads = ("system", "ROUGE-1", "ROUGE-2", _against(comparison), *costs)
    rows = [(one, _more_cells(one)) for one in reading_order(comparison)]
    table = systems_table(comparison, "Further numbers of each system", heads, rows)
    return element("details", element("summary", "More numbers"), table, class_="more")


def _against(comparison: Comparison) -> str:
    return f"against {spoken(comparison.against)}" if comparison.against else "difference"


def metrics(comparison: Comparison, *, unfolded: bool = False) -> Markup | None:
    """All metrics beside ROUGE-1, -2 and -L, folded away unless told otherwise: a system a row. None where there are no
    others."""
    names = further(comparison)
    if not names:
        return None
    rows = [
        (one, [cell(*said(one.metrics[name])) if name in one.metrics else cell(_NONE) for name in names])
        for one in reading_order(comparison)
    ]
    heads = ("system", *(headed(comparison, name) for name in names))
    note = f"* differs from “{spoken(comparison.against)}”: p < 0.05 after Holm. " if comparison.against else ""
    note += "↑ higher is better, ↓ lower. Signatures stand in summary.json."
    table = systems_table(comparison, "Further metrics of each system", heads, rows)
    summary = element("summary", "More metrics")
    shown = element("p", note, class_="note")
    return element("details", summary, table, shown, class_="more", open=unfolded)


def _more_cells(one: SystemResult) -> list[Markup]:
    p95 = one.latency.p95 if one.latency else None
    return [
        cell(number(one.rouge1.value), span(one.rouge1)),
        cell(number(one.rouge2.value), span(one.rouge2)),
        gap_cell(one),
        cell(milliseconds(p95.value), f"{milliseconds(p95.low)} to {milliseconds(p95.high)}") if p95 else cell(_NONE),
        cell(f"{one.throughput:,.1f}" if one.throughput and one.parameters else _NONE),
        cell(units.size(one.peak_memory_bytes) if one.peak_memory_bytes and one.parameters else _NONE),
        cell(number(one.output_words)),
        cell(f"{one.empty_outputs}"),
    ]


def gap_cell(one: SystemResult) -> Markup:
    """The difference to the system that all are held against, with its interval and how sure it is."""
    if (gap := one.difference) is None:
        return cell(_NONE)
    sure = p_words(one.p_value) if one.p_value is not None else ""
    return cell(number(gap.value, signed=True), f"{span(gap, signed=True)}, {sure}")


def cell(value: str, beneath: str = "") -> Markup:
    """A cell of a table: a value, and what stands small beneath it."""
    return element("td", value, element("small", beneath) if beneath else None)


def systems_table(
    comparison: Comparison, caption: str, heads: Sequence[str], rows: Sequence[tuple[SystemResult, list[Markup]]]
) -> Markup:
    """A table with a system a row, each behind its name and mark."""
    head = element("tr", [element("th", words, scope="col") for words in heads])
    body = [
        element("tr", _row_head(comparison, one.name), cells, class_=role_of(comparison, one.name))
        for one, cells in rows
    ]
    title = element("caption", caption, class_="unseen")
    table = element("table", title, element("thead", head), element("tbody", body))
    return element("div", table, class_="scrolls", tabindex="0", role="region", aria_label=caption)


def _row_head(comparison: Comparison, name: str) -> Markup:
    return element("th", element("span", key_mark(comparison, name), spoken(name)), scope="row")


def key_mark(comparison: Comparison, name: str) -> Markup:
    """The system's mark from the charts, to stand before its name."""
    drawn = mark(role_of(comparison, name), 6, 6, size=3.8)
    return element("svg", drawn, viewBox="0 0 12 12", class_="key", aria_hidden="true")


def samples(comparison: Comparison, unfolded: Sequence[str] = ("drawn", "worst")) -> Markup | None:
    """What the systems wrote, in groups, some of them `unfolded`. None where no examples were kept."""
    groups = [(name, getattr(comparison.examples, name)) for name in GROUPS]
    parts = [_group(comparison, name, chosen, name in unfolded) for name, chosen in groups if chosen]
    return joined(parts) if parts else None


def _group(comparison: Comparison, name: str, chosen: Sequence[Example], unfolded: bool) -> Markup:
    title, why = GROUPS[name]
    why = f"{why} {len(chosen)} of {comparison.n:,} items."
    summary = element("summary", element("h3", title), element("span", why))
    cards = [_card(comparison, example, compared=name in ("worst", "behind")) for example in chosen]
    return element("details", summary, cards, class_="group", open=unfolded)


def _card(comparison: Comparison, example: Example, *, compared: bool) -> Markup:
    known = {word.casefold() for target in example.targets for word in re.findall(r"\w+", target)}
    names = [one.name for one in reading_order(comparison) if one.name in example.outputs]
    references = [_said("reference", element("p", text, dir="auto"), kind="reference") for text in example.targets]
    outputs = [_output(comparison, example, name, known) for name in names]
    heading = element("h4", example.id)
    said = element("dl", references, outputs)
    changed = _difference(example.targets[0], example.outputs[comparison.student or ""]) if compared else None
    return element("article", heading, _source(example.source), said, changed, class_="sample")


def slice_words(parts: Sequence[Slice]) -> str:
    """Where the student loses most against its teacher, if chance does not explain it."""
    gaps = [(part.difference, part) for part in parts if part.difference and part.difference.high < 0]
    if not gaps:
        return "In no part is the student below its teacher by more than chance."
    gap, part = min(gaps, key=lambda pair: pair[0].value)
    return (
        f"Farthest behind its teacher: {part.low:.0f} to {part.high:.0f} {part.kind}, by {number(-gap.value)} points"
        f" ({span(gap, signed=True)}; {part.n} items)."
    )


def _difference(reference: str, output: str) -> Markup:
    """`reference` turned into `output`, word by word: what was left out is struck, what was put in is marked."""
    old, new = reference.split(), output.split()
    shown: list[Markup | str] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            shown.append(" ".join(old[a:b]))
        else:
            shown += [element("del", " ".join(old[a:b]))] if b > a else []
            shown += [element("ins", " ".join(new[c:d]))] if d > c else []
    return element("p", [[piece, " "] for piece in shown], class_="diff", dir="auto")


def _source(text: str) -> Markup:
    if len(text) <= _SOURCE_SHOWN * 1.25:
        return element("p", text, class_="source", dir="auto")
    cut = text.rfind(" ", _SOURCE_SHOWN // 2, _SOURCE_SHOWN)
    cut = cut if cut > 0 else _SOURCE_SHOWN
    rest = element("p", text[cut:].lstrip(), class_="source", dir="auto")
    summary = element("summary", f"the rest, {len(text) - cut:,} characters")
    shown = element("p", f"{text[:cut]} …", class_="source", dir="auto")
    return joined(shown, element("details", summary, rest, class_="rest"))


def _output(comparison: Comparison, example: Example, name: str, known: set[str]) -> Markup:
    text = example.outputs[name]
    body = element("p", _with_marks(text, known) if text.strip() else element("em", "nothing"), dir="auto")
    label = joined(key_mark(comparison, name), spoken(name))
    score = element("span", number(example.rougeL[name], 0), class_="score", title="ROUGE-L of this output")
    return _said(joined(label, score), body, kind=role_of(comparison, name))


def _said(label: str, body: Markup, *, kind: str) -> Markup:
    return element("div", element("dt", label), element("dd", body), class_=kind)


def _with_marks(text: str, known: set[str]) -> Markup:
    """`text` with the words that a reference has too underlined."""
    pieces = re.split(r"(\w+)", text)
    return joined([element("u", piece) if piece.casefold() in known else piece for piece in pieces])


def facts(pairs: Sequence[tuple[str, str]]) -> Markup:
    """Names and values; a value's line breaks stay."""
    rows = [element("div", element("dt", name), element("dd", value)) for name, value in pairs]
    return element("dl", rows, class_="facts")


def facts_of(comparison: Comparison) -> list[tuple[str, str]]:
    """How the numbers were measured, and on what."""
    machine = ", ".join(f"{name} {value}" for name, value in comparison.hardware.items())
    built = ", ".join(f"{name} {value}" for name, value in comparison.versions.items())
    return [
        ("Test items", f"{comparison.n:,}"),
        ("Longest output", f"{comparison.max_new_tokens} tokens, in batches of {comparison.batch_size}"),
        ("Intervals", f"95%, percentile bootstrap, {comparison.resamples:,} resamples; p by approximate randomisation"),
        ("Seed", str(comparison.seed)),
        ("Signature", comparison.signature),
        ("Machine", machine),
        ("Versions", built),
        *(("Remark", remark) for remark in comparison.remarks),
    ]
