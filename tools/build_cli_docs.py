"""Writes docs/cli.md from what `instil --help` says. Run: python tools/build_cli_docs.py [--check]"""

from __future__ import annotations

import sys
from pathlib import Path

from typer.testing import CliRunner

from instil.run.cli import app

PLACE = Path(__file__).parent.parent / "docs" / "cli.md"
COMMANDS = (
    "",
    "plan",
    "plan prices",
    "plan models",
    "init",
    "data",
    "check",
    "teachers",
    "methods",
    "teach",
    "label",
    "labels show",
    "labels verify",
    "labels merge",
    "search",
    "distil",
    "compress",
    "evaluate",
    "run",
    "compare",
    "judge new",
    "judge model",
    "judge show",
    "judge export",
    "export",
    "serve",
    "serve-key",
    "ui",
)


def rendered() -> str:
    """The page: the help of the program and of each command."""
    parts = ["# The command line\n\nWritten by `make docs` from what `instil --help` says.\n"]
    for command in COMMANDS:
        words = [*command.split(), "--help"]
        result = CliRunner().invoke(app, words, prog_name="instil", env={"COLUMNS": "100"}, terminal_width=100)
        lines = [line.rstrip() for line in result.output.strip().splitlines()]
        parts.append(f"## {' '.join(['instil', command]).strip()}\n\n```\n" + "\n".join(lines) + "\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Writes the page; with --check only says whether it is up to date."""
    if "--check" in sys.argv:
        fresh = PLACE.is_file() and PLACE.read_text(encoding="utf8") == rendered()
        print("docs/cli.md is up to date" if fresh else "docs/cli.md is stale; run make docs", file=sys.stderr)
        return 0 if fresh else 1
    PLACE.write_text(rendered(), encoding="utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
