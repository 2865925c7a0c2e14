"""`instil ui`: models side by side in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instil.run.commands.serve import Device, Engine, Models, Threads


def ui(
    models: Models,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 is any free one.")] = 7860,
    engine: Engine = "auto",
    device: Device = "auto",
    threads: Threads = None,
    judge: Annotated[Path | None, typer.Option(help="File of pairs to judge (instil judge new).")] = None,
) -> None:
    """Compare models in a browser: texts, times, sizes, blind judging, report and plan."""
    from instil.serve.awake import stay_awake

    stay_awake()
    from dataclasses import replace

    from instil.core import console
    from instil.core.config import parse
    from instil.run.commands.serve import require
    from instil.run.servable import is_run, specs_of, split_name
    from instil.serve.config import ServeConfig

    require("ui", "gradio", "prometheus_client")
    config = parse(
        ServeConfig,
        {"models": specs_of(models), "options": {"engine": engine, "device": device, "threads": threads}},
        name="instil ui",
    )
    from instil.evaluate.judgement import Judgements
    from instil.run.page_parts import around_of
    from instil.serve.page.page import Around, open_page
    from instil.serve.server import listen
    from instil.serve.service import Service

    listen(host, port).close()  # An address that cannot be had is said before models are loaded.
    run = next((ref for _, ref in map(split_name, models) if is_run(ref)), None)
    around = around_of(Path(run).expanduser()) if run else Around()
    if judge is not None:
        around = replace(around, judgements=Judgements(judge))
    service = Service(config, say=console.say)
    try:
        url, page = open_page(service, around, host=host, port=port)
        console.say(f"ready on {url}")
        page.block_thread()
    finally:
        service.close()
