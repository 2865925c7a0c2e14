"""`instil data`, `teach`, `label`, `distil`, `compress`: the stages of a recipe, each a command of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instil.run.commands.following import following
from instil.run.commands.options import AsJson, Overrides, RecipePath, pipeline_of

if TYPE_CHECKING:
    from instil.run.pipeline import Pipeline
    from instil.run.stage import Artifact


def data(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Read, clean and split the data, with an account of what was dropped."""
    _stage("data", recipe, overrides, as_json, next_stage="teach")


def teach(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Fine-tune the teacher, where the recipe says so."""
    _stage("teach", recipe, overrides, as_json, next_stage="label")


def label(
    recipe: RecipePath,
    overrides: Overrides = None,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts; instil labels merge joins them.")
    ] = None,
    measure: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS", min=1, help="Write none; measure bytes and nearness of each detail on so many rows."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write down what the teacher knows about the train split."""
    if measure is not None:
        again = following("label", recipe, overrides)
        _measure_labels(pipeline_of(recipe, overrides), measure, as_json, again)
        return
    if part is None:
        _stage("label", recipe, overrides, as_json, next_stage="distil")
        return
    number, of = _part(part)
    artifact = pipeline_of(recipe, overrides).label_part(number, of)
    _say_stage("label", artifact, as_json, f"instil labels merge STORE {artifact.folder.parent}/label-part-*")


def _measure_labels(pipeline: Pipeline, rows: int, as_json: bool, next_command: str) -> None:
    from instil.core import console
    from instil.run.measure_labels import measure_labels

    found = measure_labels(pipeline, rows)
    if as_json:
        console.emit_json({"rows": found, "next": next_command})
        return
    print(f"{'setting':<18}{'bytes a row':>12}{'512 rows':>12}{'all rows':>12}   degrees from the dense gradient")
    for line in found:
        size, whole = ("" if line[key] is None else f"{line[key]:.1f}" for key in ("bytes_per_token", "angle_all"))
        print(f"{line['setting']:<18}{size:>12}{line['angle_512']:>12.1f}{whole:>12}")
    print(f"Next: {next_command}  (labels.detail chooses the setting)")


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise typer.BadParameter(f"{text!r} is no part; give two numbers like 3/16", param_hint="--part")
    return int(match[1]), int(match[2])


def distil(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Build the student and train it from the labels; and without them, for the comparison."""
    _stage("distil", recipe, overrides, as_json, next_stage="evaluate")


def compress(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Give the distilled student fewer bits or weights, where the recipe says so, and let it recover."""
    _stage("compress", recipe, overrides, as_json, next_stage="evaluate")


def _stage(name: str, recipe: Path, overrides: list[str] | None, as_json: bool, *, next_stage: str) -> None:
    pipeline = pipeline_of(recipe, overrides)
    from instil.run.pipeline import STAGES

    _say_stage(name, STAGES[name](pipeline), as_json, following(next_stage, recipe, overrides))


def _say_stage(name: str, artifact: Artifact | None, as_json: bool, next_command: str) -> None:
    from instil.core import console

    if as_json:
        found = artifact.manifest.model_dump(mode="json") | {"folder": str(artifact.folder)} if artifact else {}
        console.emit_json(found | {"next": next_command})
    elif artifact is None:
        print(f"{name}: the recipe asks for none, so there is nothing to do\nNext: {next_command}")
    else:
        print(f"{name}: {artifact.folder}\nNext: {next_command}")
