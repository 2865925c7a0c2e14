"""The third tab: which of two texts a person prefers, without knowing whose they are; and how it stands."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from instil.core.errors import InstilError
from instil.evaluate.agreement import preferences
from instil.evaluate.judgement import Choice, Judgements, Shown
from instil.serve.page.cards import notice

_LABELS = ("Left is better", "No difference", "Right is better")
_NONE = "There is nothing to judge. Give the folder of a run whose two models wrote different texts, or --judge FILE."


def judge_tab(kept: Judgements | None) -> None:
    """Build it, in the tab that is open."""
    if kept is None:
        gr.HTML(notice(_NONE))
        return
    with gr.Row(equal_height=True):
        judge = gr.Textbox(label="Your name", max_lines=1, max_length=60, scale=2)
        begin = gr.Button("Begin", variant="primary", scale=0, min_width=140, elem_classes="beside")
    pair = gr.HTML(padding=False)
    at: Any = gr.State(None)
    with gr.Row():
        buttons = [gr.Button(label, interactive=False, min_width=100) for label in _LABELS]
    standing = gr.HTML(_standing(kept), padding=False)
    outputs = [pair, at, *buttons, standing]
    gr.on([begin.click, judge.submit], lambda name: _next(kept, name), judge, outputs, api_visibility="private")
    choices: tuple[Choice, ...] = ("left", "tie", "right")
    for button, choice in zip(buttons, choices, strict=True):
        button.click(_answering(kept, choice), [judge, at], outputs, api_visibility="private")


def _answering(kept: Judgements, choice: Choice) -> Any:
    def answer(name: str, at: tuple[int, float] | None) -> list[Any]:
        if at is not None:
            try:
                kept.answer(name, at[0], choice, seconds=round(time.time() - at[1], 1))
            except InstilError as error:
                return _stopped(kept, str(error))
        return _next(kept, name)

    return answer


def _next(kept: Judgements, name: str) -> list[Any]:
    try:
        shown = kept.following(name)
        done, of = kept.progress(name)
    except InstilError as error:
        return _stopped(kept, str(error))
    if shown is None:
        return _stopped(kept, f"All {of} pairs are judged. Thank you.")
    on = gr.update(interactive=True)
    return [_pair(shown, kept.question, done, of), (shown.pair, time.time()), on, on, on, _standing(kept)]


def _stopped(kept: Judgements, told: str) -> list[Any]:
    off = gr.update(interactive=False)
    return [notice(told), None, off, off, off, _standing(kept)]


def _pair(shown: Shown, question: str, done: int, of: int) -> str:
    sides = "".join(
        f'<article class="card"><header><h3>{side}</h3></header><p class="text" dir="auto">{escape(text)}</p></article>'
        for side, text in (("Left", shown.left), ("Right", shown.right))
    )
    return (
        f"<p>{escape(question)} <small>({done + 1} of {of})</small></p>"
        f'<p class="asked" dir="auto">{escape(shown.source)}</p><div class="pair">{sides}</div>'
    )


def _standing(kept: Judgements) -> str:
    """How it stands, for all judges together."""
    lines = [
        f"<strong>{one.win_rate.value:.0%}</strong> prefer {escape(one.first)} to {escape(one.second)} "
        f"(95% interval {one.win_rate.low:.0%} to {one.win_rate.high:.0%}; {one.answers} answers to {one.pairs} pairs)"
        for one in preferences(kept.answers())
    ]
    return f'<p class="standing">{"<br>".join(lines) or "No answers yet."}</p>'
