"""`instil compare`: several ways to come by the same student, each with several seeds, in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from instil.run.commands.following import told, use_of
from instil.run.commands.options import AsJson

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of every way's recipe. Repeatable."),
]


def compare(
    comparison: Annotated[
        Path, typer.Argument(help="The comparison: a recipe and its ways, in YAML.", show_default=False)
    ],
    overrides: Overrides = None,
    md: Annotated[bool, typer.Option("--md", help="Print sentences and table as Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a student in several ways for the same budget, and tell which is worth it: quality, time, size, speed."""
    from instil.run.compare.compare import read_plan

    plan = read_plan(comparison, overrides or ())
    from instil.core import console, publish
    from instil.run.compare import report as compare_report
    from instil.run.compare.words import told as words_of
    from instil.run.stages.compare import WAYS_NAME, read_ways, run_compare

    artifact, failed = run_compare(plan)
    ways, outputs = read_ways(artifact)
    ways = ways.model_copy(update={"failed": failed})
    best = next(run.student.folder for run in plan.runs if run.way == ways.best.name)
    next_command = use_of(best, plan.first.recipe.data)
    root = plan.first.root
    publish.write_text(root / WAYS_NAME, ways.model_dump_json(indent=2) + "\n")
    place = compare_report.write_report(
        root, title=plan.config.name, ways=ways, comparison=outputs, next_command=next_command
    )
    if as_json:
        told_as = {"verdict": words_of(ways), "report": str(place), "next": next_command}
        console.emit_json(json.loads(ways.model_dump_json()) | told_as)
    elif md:
        print(compare_report.markdown(ways), end="")
    else:
        from rich.console import Console

        Console().print(compare_report.terminal_table(ways))
        print("\n".join(words_of(ways)))
        print(f"Report: {place}\n{told(next_command)}")
    if failed:
        raise typer.Exit(1)
