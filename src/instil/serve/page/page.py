"""The page itself: tabs over the models of one service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any
from urllib.parse import quote

import gradio as gr

from instil.core.errors import InstilError
from instil.evaluate.judgement import Judgements
from instil.serve.page.batch_tab import batch_tab
from instil.serve.page.compare_tab import compare_tab
from instil.serve.page.judge_tab import judge_tab
from instil.serve.service import Service

_FONTS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_MONO = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]

PlanOf = Callable[[str], tuple[str, str]]
"""From requests a day, as typed, to the plan's lines and the break-even as an SVG. Raises `InstilError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What the page shows beside the models, as far as there is any.

    `examples`: texts of the test set. `report`: the run's report, a whole HTML page. `plan`: what the plan tab asks.
    """

    title: str = "Models side by side"
    examples: Sequence[str] = ()
    report: str | None = None
    plan: PlanOf | None = None
    judgements: Judgements | None = None


def make_page(service: Service, around: Around) -> gr.Blocks:
    """The page over the models of `service`."""
    with gr.Blocks(title=around.title, analytics_enabled=False) as page:
        gr.HTML(_opening(service, around.title), elem_classes="opening", padding=False)
        with gr.Tabs():
            with gr.Tab("Compare"):
                compare_tab(service, around.examples)
            with gr.Tab("Batch"):
                batch_tab(service)
            with gr.Tab("Judge"):
                judge_tab(around.judgements)
            with gr.Tab("Report"):
                gr.HTML(_report(around.report), elem_classes="report", padding=False)
            with gr.Tab("Plan"):
                _plan_tab(around.plan)
    return page


def _opening(service: Service, title: str) -> str:
    names = " and ".join(filter(None, [", ".join(list(service.models)[:-1]), list(service.models)[-1]]))
    return f"<h1>{escape(title)}</h1><p>{escape(names)} on this machine, on the same input, one after the other.</p>"


def _report(report: str | None) -> str:
    if report is None:
        return '<p class="notice">These models come without a run. Give the folder of a run to see its report.</p>'
    # In a frame without rights: the report's own styles stay inside, and nothing in it can reach the page.
    return f'<iframe sandbox="" title="Report of the run" srcdoc="{escape(report, quote=True)}"></iframe>'


def _plan_tab(plan: PlanOf | None) -> None:
    if plan is None:
        gr.HTML('<p class="notice">These models come without a run. Give the folder of a run to see its plan.</p>')
        return
    with gr.Row(equal_height=True):
        requests = gr.Textbox("10k", label="Requests a day", max_lines=1, max_length=20, scale=1)
        button = gr.Button("Count again", variant="primary", scale=0, min_width=140, elem_classes="beside")
    shown = gr.HTML(_planned(plan, "10k"), elem_classes="plan", padding=False)
    gr.on([button.click, requests.submit], lambda typed: _planned(plan, typed), requests, shown, api_name="plan")


def _planned(plan: PlanOf, typed: str) -> str:
    try:
        lines, drawing = plan(typed)
    except InstilError as error:
        return f'<p class="notice">{escape(str(error))}</p>'
    image = f'<img alt="Break-even" src="data:image/svg+xml,{quote(drawing)}">' if drawing else ""
    return f"{image}<pre>{escape(lines)}</pre>"


def launch_options() -> dict[str, Any]:
    """How the page is shown: our own style, system fonts, nothing fetched from elsewhere, nothing shared."""
    theme = gr.themes.Base(primary_hue="sky", neutral_hue="stone", font=_FONTS, font_mono=_MONO)
    css = resources.files("instil.serve.page").joinpath("style.css").read_text("utf8")
    return {
        "theme": theme, "css": css, "footer_links": [], "share": False, "max_file_size": "5mb", "ssr_mode": False,
        "show_error": True,
    }  # fmt: skip


def open_page(service: Service, around: Around, *, host: str, port: int) -> tuple[str, gr.Blocks]:
    """Show the page at `host`:`port` (0: any free one); its address and the page, which `close` ends."""
    page = make_page(service, around)
    page.queue(default_concurrency_limit=2, max_size=64)
    _, url, _ = page.launch(
        server_name=host, server_port=port or None, prevent_thread_lock=True, quiet=True, **launch_options()
    )
    return url.rstrip("/"), page
