"""The second tab: a file of texts goes in, a file with what each model wrote comes out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from instil.core.errors import InstilError
from instil.serve.page.cards import notice
from instil.serve.page.files import MOST_ROWS, read_texts, write_answers
from instil.serve.page.writing import write_all
from instil.serve.service import Service

_SHOWN_ROWS = 20
_FORMS = [".txt", ".jsonl", ".csv"]


def batch_tab(service: Service) -> None:
    """Build it, in the tab that is open."""
    names = list(service.models)
    limit = min(service.config.limits.new_tokens, max(model.spec.max_new_tokens for model in service.models.values()))
    told = f"A text on each line, or JSONL or CSV with a column “source”; at most {MOST_ROWS:,} texts."
    gr.HTML(f"<p>{told}</p>", padding=False)
    file = gr.File(label="Texts", height=150, file_types=_FORMS, type="filepath")
    chosen = gr.CheckboxGroup(names, value=names, label="Models")
    run = gr.Button("Write all", variant="primary")
    state = gr.HTML(padding=False)
    download = gr.File(label="All answers, as JSONL", visible=False)
    table = gr.Dataframe(
        headers=["source", *names], interactive=False, wrap=True, visible=False, label="The first rows"
    )

    def batch(path: str | None, models: list[str]) -> Iterator[tuple[Any, Any, Any]]:
        """Every text of a file through the models chosen."""
        yield from _batch(service, path, [name for name in names if name in models], limit)

    run.click(batch, [file, chosen], [state, download, table], api_name="batch")


def _batch(service: Service, path: str | None, names: list[str], limit: int) -> Iterator[tuple[Any, Any, Any]]:
    hidden = gr.update(visible=False)
    if path is None or not names:
        yield notice("Choose a file and at least one model."), hidden, hidden
        return
    try:
        sources = read_texts(Path(path))
    except InstilError as error:
        yield notice(str(error)), hidden, hidden
        return
    answers: dict[str, list[str]] = {}
    for name in names:
        answers[name] = []
        for text in write_all(service, service.models[name], sources, limit):
            answers[name].append(text)
            yield _progress(name, len(answers[name]), len(sources)), hidden, hidden
    rows = [[source, *(answers[name][n] for name in names)] for n, source in enumerate(sources[:_SHOWN_ROWS])]
    table = gr.update(value={"headers": ["source", *names], "data": rows}, visible=True)
    yield (
        f"<p>{len(sources):,} texts done.</p>",
        gr.update(value=str(write_answers(sources, answers)), visible=True),
        table,
    )


def _progress(name: str, done: int, of: int) -> str:
    return f'<p>{name}: {done:,} of {of:,}</p><progress value="{done}" max="{of}" style="width:100%"></progress>'
