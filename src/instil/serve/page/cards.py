"""Models side by side, as HTML: a card each, with text, times and sizes, and how their words differ."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from instil.core import units
from instil.serve.models import ServedModel
from instil.serve.page.words import share_alike, word_diff
from instil.serve.page.writing import Shown


def cards(found: Sequence[tuple[ServedModel, Shown]]) -> str:
    """All cards; the first one that is done is what the others are held against."""
    first = next((shown for _, shown in found if shown.answer), None)
    return f'<div class="cards">{"".join(_card(model, shown, first) for model, shown in found)}</div>'


def _card(model: ServedModel, shown: Shown, first: Shown | None) -> str:
    facts = model.engine.facts
    head = f'<header><h3>{escape(model.name)}</h3><span class="engine">{escape(facts.name)}</span></header>'
    parts = (head, _body(shown), _remarks(shown), _numbers(model, shown), _difference(shown, first))
    return f'<article class="card">{"".join(parts)}</article>'


def _body(shown: Shown) -> str:
    if shown.problem:
        return f'<p class="problem">{escape(shown.problem)}</p>'
    if shown.answer and not shown.text:
        return '<p class="quiet">It wrote nothing.</p>'
    if shown.waiting:
        return '<p class="quiet">Its turn comes …</p>'
    caret = "" if shown.answer else '<span class="caret"></span>'
    return f'<p class="text" dir="auto">{escape(shown.text)}{caret}</p>'


def _remarks(shown: Shown) -> str:
    remarks = []
    if shown.cut:
        remarks.append(f"The last {shown.cut:,} tokens of the input were cut off: it learned with shorter ones.")
    if shown.answer and shown.answer.ended == "length":
        remarks.append("It was stopped at the limit of new tokens.")
    return "".join(f'<p class="remark">{remark}</p>' for remark in remarks)


def _numbers(model: ServedModel, shown: Shown) -> str:
    answer, speed = shown.answer, shown.tokens_per_second
    memory = model.memory
    pairs = [
        ("first token", units.seconds(answer.first_s) if answer else "–"),
        ("whole text", units.seconds(answer.whole_s) if answer else "–"),
        ("speed", f"{speed:.1f} tokens/s" if speed else "–"),
        ("tokens", f"{shown.read:,} in, {answer.new_tokens:,} out" if answer else "–"),
        ("weights", units.size(model.engine.facts.bytes) if model.engine.facts.bytes else "–"),
        ("memory", units.size(memory) if memory else "–"),
    ]
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs) + "</dl>"


def _difference(shown: Shown, first: Shown | None) -> str:
    if first is None or not shown.answer or shown is first or shown.problem:
        return ""
    if shown.text == first.text:
        return f'<p class="alike">Word for word the text of {escape(first.model)}.</p>'
    alike = f"{share_alike(first.text, shown.text):.0%} the same words"
    diff = word_diff(first.text, shown.text)
    return (
        f'<details open><summary>Against {escape(first.model)}: {alike}</summary><p class="diff" dir="auto">{diff}</p>'
        "</details>"
    )


def notice(text: str) -> str:
    """One line instead of cards."""
    return f'<p class="notice">{escape(text)}</p>'
