"""The first tab: one input, all models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gradio as gr

from instil.core.errors import InstilError
from instil.serve.models import ServedModel
from instil.serve.page.cards import cards, notice
from instil.serve.page.writing import Shown, write
from instil.serve.service import Service

_LONGEST_CHARACTERS = 100_000
_LABEL_CHARACTERS = 90


def compare_tab(service: Service, examples: Sequence[str]) -> None:
    """Build it, in the tab that is open."""
    names = list(service.models)
    source = gr.Textbox(label="Input", lines=5, max_lines=14, placeholder="A text to work on", autofocus=True)
    with gr.Row(equal_height=True):
        chosen = gr.CheckboxGroup(names, value=names, label="Models", scale=3)
        most = min(service.config.limits.new_tokens, 512)
        usual = min(most, max(model.spec.max_new_tokens for model in service.models.values()))
        limit = gr.Slider(1, most, value=usual, step=1, label="New tokens at most", scale=2)
    with gr.Row():
        run = gr.Button("Write", variant="primary", scale=4, min_width=120)
        stop = gr.Button("Stop", scale=1, min_width=80)
    shown = gr.HTML(_empty(service), elem_id="side-by-side", padding=False)

    def compare(text: str, models: list[str], tokens: float) -> Iterator[str]:
        """Each model's text for `text`, with its times, as HTML."""
        yield from _compare(service, text, models, int(tokens))

    def write_text(model: str, text: str, tokens: float = usual) -> str:
        """The text that one model writes."""
        return _one(service, model, text, int(tokens))

    asking = gr.on([run.click, source.submit], compare, [source, chosen, limit], shown, api_name="compare")
    stop.click(None, cancels=[asking], api_visibility="private")
    gr.api(write_text, api_name="write")
    if examples:
        _examples(examples, source)


def _examples(examples: Sequence[str], source: gr.Textbox) -> None:
    labels = [_label(text) for text in examples]
    offered = gr.Dataset(
        components=[gr.Textbox(visible=False)], samples=[[label] for label in labels], label="From the test set",
        type="index", samples_per_page=5,
    )  # fmt: skip
    offered.click(lambda index: examples[index], offered, source, api_visibility="private")


def _label(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LABEL_CHARACTERS else line[: _LABEL_CHARACTERS - 1] + "…"


def _empty(service: Service) -> str:
    return cards([(model, Shown(model.name, text=" ")) for model in service.models.values()])


def _compare(service: Service, text: str, names: Sequence[str], limit: int) -> Iterator[str]:
    """In turns, so that no model's times are those of another's work."""
    problem = _problem(text, names)
    if problem:
        yield notice(problem)
        return
    models = [service.models[name] for name in service.models if name in names]
    found: list[tuple[ServedModel, Shown]] = [(model, Shown(model.name, waiting=True)) for model in models]
    for place, model in enumerate(models):
        for shown in write(service, model, text, limit):
            found[place] = (model, shown)
            yield cards(found)


def _problem(text: str, names: Sequence[str]) -> str:
    if not text.strip():
        return "There is no input yet: type a text, or choose one of the examples."
    if len(text) > _LONGEST_CHARACTERS:
        return f"The input has {len(text):,} characters, but at most {_LONGEST_CHARACTERS:,} are taken; shorten it."
    return "" if names else "No model is chosen: tick at least one."


def _one(service: Service, model: str, text: str, limit: int) -> str:
    if problem := _problem(text, [model]):
        raise gr.Error(problem)
    try:
        *_, last = write(service, service.model(model), text, limit, fresh=False)
    except InstilError as error:
        raise gr.Error(str(error)) from error
    if last.problem:
        raise gr.Error(last.problem)
    return last.text
