"""Arguments and options that commands share, so that they read alike everywhere, and the recipe that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from instil.run.pipeline import Pipeline
    from instil.run.recipe import Recipe

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, e.g. distil.alpha=0.5. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
AsMarkdown = Annotated[bool, typer.Option("--md", help="Print verdict and table as Markdown, for a pull request.")]


def recipe_of(path: Path, overrides: list[str] | None = None) -> Recipe:
    """The recipe in the file `path`, changed by `overrides`. Raises `ConfigError`."""
    from instil.run.recipe_file import read_recipe

    return read_recipe(path, tuple(overrides or ()))


def pipeline_of(path: Path, overrides: list[str] | None = None) -> Pipeline:
    """Its pipeline, with all paths as they stand. The recipe is read first: it fails sooner than torch is imported."""
    recipe = recipe_of(path, overrides)
    from instil.run.pipeline import Pipeline

    return Pipeline(recipe, Path())
