"""`instil search`: the best student of a recipe's teacher within limits on time, parameters, bytes or FLOPs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from instil.run.commands.following import following
from instil.run.commands.options import AsJson, Overrides, RecipePath, pipeline_of


def search(
    recipe: RecipePath,
    latency_ms: Annotated[float | None, typer.Option(help="Most milliseconds a text, median at batch 1, here.")] = None,
    max_parameters: Annotated[int | None, typer.Option(help="Most weights, tied ones counted once.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Most bytes of weights, in fp32.")] = None,
    max_flops: Annotated[float | None, typer.Option(help="Most FLOPs of a forward pass over a mean example.")] = None,
    layers: Annotated[str | None, typer.Option(help="Decoder layers to try, as 6,12,18.")] = None,
    encoder_layers: Annotated[str | None, typer.Option(help="Encoder layers to try.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Hidden channels to try. [default: the teacher's]")] = None,
    feed_forward: Annotated[str | None, typer.Option(help="Feed-forward units to try.")] = None,
    heads: Annotated[
        str | None, typer.Option(help="Attention heads to try; key-value heads follow. [default: the teacher's]")
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="Tokens to try: numbers, all or used. [default: all,used]")
    ] = None,
    minutes: Annotated[float, typer.Option(help="No trial begins after so many minutes of trials.")] = 15.0,
    steps: Annotated[int, typer.Option(help="Steps that each candidate learns before it is judged.")] = 40,
    trials: Annotated[int, typer.Option(help="Most candidates that are tried.")] = 1000,
    write: Annotated[Path | None, typer.Option(help="Write the recipe with the chosen student to this file.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Try students of the recipe's teacher; print the best one within the limits, as lines for the recipe."""
    from instil.core.config import parse
    from instil.core.errors import ConfigError
    from instil.run.search.wish import Wish, numbers

    bounds = {"latency_ms": latency_ms, "parameters": max_parameters, "bytes": max_bytes, "flops": max_flops}
    sizes = {
        "layers": numbers(layers, "--layers"), "encoder_layers": numbers(encoder_layers, "--encoder-layers"),
        "hidden": numbers(hidden, "--hidden"), "feed_forward": numbers(feed_forward, "--feed-forward"),
        "heads": numbers(heads, "--heads"), "vocabulary": numbers(vocabulary, "--vocabulary"),
    }  # fmt: skip
    asked = {
        "limits": {name: bound for name, bound in bounds.items() if bound is not None}, "choices": sizes,
        "minutes": minutes, "steps": steps, "trials": trials,
    }  # fmt: skip
    wish = parse(Wish, asked, name="instil search")
    if write is not None and write.exists():
        raise ConfigError(f"--write {write}: is there already; give another name")
    pipeline = pipeline_of(recipe, overrides)
    by_hand = f"put the student section into {recipe}, then {following('run', recipe, overrides)}"
    next_command = f"instil run {write}" if write else by_hand
    _show(pipeline.recipe, pipeline.search(wish), write, as_json, next_command)


def _show(loaded: Any, artifact: Any, write: Path | None, as_json: bool, next_command: str) -> None:
    from instil.core import console, publish
    from instil.run.recipe import resolved_yaml
    from instil.run.search.search import PLOT_NAME, recipe_lines
    from instil.run.sections.student import StudentConfig

    result = artifact.manifest.result
    if write is not None:
        student = StudentConfig.model_validate(result["student"])
        publish.write_text(write, resolved_yaml(loaded.model_copy(update={"student": student})))
    plot = artifact.folder / PLOT_NAME
    if as_json:
        console.emit_json({**result, "folder": str(artifact.folder), "plot": str(plot), "next": next_command})
        return
    for row in result["front"]:
        print(_line(row))
    chosen = result["chosen"]
    print(f"chosen, timed again:\n{_line(chosen)}\n\n{recipe_lines(result)}\n\nPlot: {plot}\nNext: {next_command}")


def _line(row: dict[str, Any]) -> str:
    from instil.core import units

    names = ("layers", "encoder_layers", "hidden", "feed_forward", "heads", "vocabulary")
    sizes = ", ".join(f"{name.replace('_', ' ')} {row[name]}" for name in names if row[name] is not None)
    return (
        f"{row['latency_ms']:8.1f} ms  {row['speedup']:5.2f} x  loss {row['loss']:.4f}"
        f"  {units.count(row['parameters']):>7} parameters  {sizes}"
    )
