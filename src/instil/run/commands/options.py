"""Arguments and options that commands share, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, e.g. distil.alpha=0.5. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
AsMarkdown = Annotated[bool, typer.Option("--md", help="Print verdict and table as Markdown, for a pull request.")]
