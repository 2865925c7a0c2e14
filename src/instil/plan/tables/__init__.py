"""The room's tables: facts with their sources, and coefficients that were fitted. Read once, never written here."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from instil.core.errors import ConfigError

T = TypeVar("T")

FOLDER = Path(__file__).parent


@cache
def rows_of(name: str) -> tuple[dict[str, str], ...]:
    """The rows of a table in CSV, as texts."""
    with (FOLDER / name).open(encoding="utf8", newline="") as file:
        return tuple(csv.DictReader(file))


@cache
def json_of(name: str) -> Any:
    """A table in JSON."""
    return json.loads((FOLDER / name).read_text(encoding="utf8"))


def choose(name: str, known: Mapping[str, T], what: str) -> T:
    """`known[name]`. Raises `ConfigError` that names what comes near."""
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), [key.lower() for key in known], n=3, cutoff=0.4)
    keys = {key.lower(): key for key in known}
    hint = f"did you mean {' or '.join(keys[key] for key in near)}?" if near else f"known are {', '.join(known)}"
    raise ConfigError(f"unknown {what} {name!r}; {hint}")
