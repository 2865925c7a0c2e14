"""`instil methods` and `instil teachers`: what may be chosen, with what is known of each before it is tried."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from instil.run.commands.following import following
from instil.run.commands.options import AsJson, Overrides, recipe_of


def methods(as_json: AsJson = False) -> None:
    """Every way of teaching: what it needs, and what it costs beside fine-tuning."""
    from dataclasses import asdict

    from instil.core import console
    from instil.run.methods import all_methods

    found = [asdict(method) for method in all_methods()]
    next_command = "instil run recipes/methods/response.yaml"
    if as_json:
        console.emit_json({"methods": found, "next": next_command})
        return
    heads = {
        "method": "method", "live_teacher": "live teacher?", "same_tokenizer": "same tokenizer?", "time": "time",
        "memory": "memory", "recipe": "recipe",
    }  # fmt: skip
    print_table(heads, found)
    print(
        "Time and memory of training are ratios to fine-tuning the same student; --json tells the basis of each,"
        f" docs/methods.md what each is for.\nNext: {next_command}"
    )


def teachers(
    recipe: Annotated[Path, typer.Argument(help="A recipe with a teachers section.", show_default=False)],
    items: Annotated[int, typer.Option(help="Validation records that each candidate answers.", min=1)] = 50,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Rank the teachers that a recipe names on your validation records."""
    from instil.core import console

    loaded = recipe_of(recipe, overrides)
    from instil.run.teachers import rank_teachers

    found = rank_teachers(loaded, Path(), items=items)
    next_command = f"{following('run', recipe, overrides)} --set {_setting(found[0]['section'])}"
    if as_json:
        console.emit_json({"teachers": found, "next": next_command})
        return
    heads = {
        "teacher": "teacher", "rougeL": "ROUGE-L (95%)", "bits_per_character": "bits/character",
        "per_second": "outputs/s", "overlap": "tokens shared", "access": "access", "licence": "licence",
        "outputs": "training on outputs",
    }  # fmt: skip
    print_table(heads, [_shown(row) for row in found])
    for row in found:
        if row["says"]:
            console.say(f"{row['teacher']}: {row['says']} ({row['source']}, {row['date']})")
    print(f"Next: {next_command}")


def _setting(section: dict[str, Any]) -> str:
    """The whole `teacher` section as one quoted value, so that nothing of the recipe's own teacher stays."""
    import yaml

    value = yaml.safe_dump(section, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return shlex.quote(f"teacher={value.strip()}")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    score, loss = row["rougeL"], row["bits_per_character"]
    return row | {
        "rougeL": f"{score['value']:.1f} ({score['low']:.1f} to {score['high']:.1f})",
        "bits_per_character": "not told" if loss is None else f"{loss:.3f}",
        "per_second": f"{row['per_second']:.2g}",
        "overlap": f"{row['overlap']:.0%}",
    }


def print_table(heads: dict[str, str], rows: list[dict[str, Any]]) -> None:
    """Columns under their `heads`, as wide as their longest entry."""
    widths = {key: max(len(head), *(len(str(row[key])) for row in rows)) for key, head in heads.items()}
    for row in (heads, *rows):
        print("  ".join(f"{row[key]!s:<{width}}" for key, width in widths.items()).rstrip())
