"""`instil run` and `instil evaluate`: a whole recipe, and its comparison with what else is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instil.core.processes import is_first
from instil.run.commands.following import following, told, use_of
from instil.run.commands.options import AsJson, AsMarkdown, Overrides, RecipePath, pipeline_of

if TYPE_CHECKING:
    from instil.run.pipeline import Pipeline


def evaluate(
    recipe: RecipePath,
    overrides: Overrides = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A further system: its outputs, as JSONL or a line each. Repeatable."),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="A further system: an OpenAI-compatible server. Repeatable."),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Compare nothing; tell what each system does with odd sources.")
    ] = False,
    md: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare teacher, students, trivial baselines and what else is named on held-out data."""
    further = [*_systems("--outputs", outputs, "outputs"), *_systems("--endpoint", endpoint, "endpoint.url")]
    changes = [*(overrides or ()), *further]
    pipeline = pipeline_of(recipe, changes)
    if probe:
        from instil.run.report.probe_table import show_probe

        show_probe(pipeline.probe(), as_json, following("evaluate", recipe, changes))
    else:
        _show(pipeline, md, as_json, following("run", recipe, changes))


def _systems(option: str, given: list[str] | None, key: str) -> list[str]:
    """What was given for `option` as changes of the recipe."""
    for text in given or ():
        if not re.fullmatch(r"[\w-]+=.+", text):
            raise typer.BadParameter(f"{text!r} has no name; write NAME={text}", param_hint=option)
    return [
        f"evaluate.systems.{name}.{key}={value}" for name, _, value in (text.partition("=") for text in given or ())
    ]


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Begin without instil check.")] = False,
    md: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Check, then run all stages, reusing what is finished, and write summary.json and report.html."""
    pipeline = pipeline_of(recipe, overrides)
    if not no_check and is_first():
        from instil.run.check.check import check_first

        check_first(pipeline)
    _show(pipeline, md, as_json, _after(pipeline, recipe, overrides))


def _after(pipeline: Pipeline, recipe: Path, overrides: list[str] | None) -> str:
    """What comes after a whole run."""
    if pipeline.recipe.distil is None:
        return f"add student and distil to {recipe}, then {following('run', recipe, overrides)}"
    return use_of(pipeline.student.folder, pipeline.recipe.data)


def _show(pipeline: Pipeline, md: bool, as_json: bool, next_command: str) -> None:
    from instil.core import console
    from instil.run.report.metric_table import metric_table
    from instil.run.report.terminal import terminal_table, terminal_tables

    comparison, place = pipeline.publish(next_command)
    if as_json:
        console.emit_json(pipeline.summary(comparison) | {"report": str(place), "next": next_command})
        return
    if md:
        from instil.run.report.markdown import markdown

        print(markdown(comparison, pipeline.further), end="")
        return
    from rich.console import Console

    Console().print(terminal_table(comparison))
    if (table := metric_table(comparison)) is not None:
        Console().print(table)
    for each in terminal_tables(pipeline.further):
        Console().print(each)
    further = (f"{task}: {remark}" for task, found in pipeline.further.items() for remark in found.remarks)
    for remark in (*comparison.remarks, *further):
        console.say(f"note: {remark}")
    print(f"Report: {place}\n{told(next_command)}")
