"""`instil init`: a commented recipe for a user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instil.run.commands.options import AsJson


def init(
    data: Annotated[Path | None, typer.Argument(help="Your file of pairs: JSONL, CSV or Parquet.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the recipe.")] = Path("recipe.yaml"),
    source: Annotated[str | None, typer.Option(help="The column that the model reads.")] = None,
    target: Annotated[str | None, typer.Option(help="The column that the model is to write.")] = None,
    task: Annotated[str | None, typer.Option(help="summarise, translate, answer, data-to-text or other.")] = None,
    teacher: Annotated[str | None, typer.Option(help="The large model: a folder, a hub id or wheel:NAME.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of training in all.")] = None,
    name: Annotated[str | None, typer.Option(help="The recipe's name.")] = None,
    force: Annotated[bool, typer.Option(help="Write over an existing recipe.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; guess what is not given.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented recipe for your own file, after a few questions."""
    from instil.core import console
    from instil.run.init.init import init_command

    made = init_command(
        data, out=out, source=source, target=target, task=task, teacher=teacher, minutes=minutes, name=name,
        force=force, yes=yes,
    )  # fmt: skip
    for remark in made.remarks:
        console.say(remark)
    if as_json:
        console.emit_json({"recipe": str(made.path), "next": made.next_command})
    else:
        print(f"Wrote {made.path}\nNext: {made.next_command}")
