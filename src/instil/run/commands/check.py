"""`instil check`: everything that would go wrong, told before an hour is spent; nothing is changed on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instil.run.commands.following import following
from instil.run.commands.options import AsJson, Overrides, RecipePath, recipe_of

if TYPE_CHECKING:
    from instil.run.check.check import Checked

_STYLES = {"fail": "bold red", "warn": "yellow", "info": "dim"}


def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="GROUPS", help="Some of: environment, data, models, vocabulary, teacher, alignment, "
                     "objective, resources; with commas."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Load no model's weights.")] = False,
    records: Annotated[
        int | None, typer.Option(min=2, help="Records that teacher and student both answer. [default: 16]")
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Tell all that would go wrong, with evidence and remedy; exit 1 if anything would. Changes nothing on disk."""
    from instil.core import console

    loaded = recipe_of(recipe, overrides)
    from instil.run.check import check as checking

    groups = checking.chosen_groups(only)
    found = checking.check(loaded, Path(), groups=groups, sample=records or checking.SAMPLE, quick=quick)
    again = f"{following('check', recipe, overrides)}, once what fails is mended"
    next_command = again if found.exit_code else following("run", recipe, overrides)
    if as_json:
        console.emit_json(found.as_json() | {"next": next_command})
    else:
        _show(found, next_command)
    raise typer.Exit(found.exit_code)


def _show(found: Checked, next_command: str) -> None:
    """A table: grade, code, and the problem over its evidence and its remedy."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("grade", "code", "problem, evidence, remedy"):
        table.add_column(heading, no_wrap=heading != "problem, evidence, remedy", justify="left")
    for each in found.findings:
        problem = each.problem
        told = [f"{problem.where}: {problem.what}" if problem.where else problem.what]
        told += [f"evidence: {problem.evidence}"] if problem.evidence else []
        told += [f"remedy: {problem.remedy}"] if problem.remedy else []
        table.add_row(Text(problem.grade, _STYLES[problem.grade]), problem.code, Text("\n".join(told)))
    Console().print(table)
    print(f"{found.line()}\nNext: {next_command}")
