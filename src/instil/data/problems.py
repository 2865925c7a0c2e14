"""One clear line for every defect of the data: where, what, and what to do."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from instil.core.errors import DataError
from instil.core.problems import fail


class BadData(DataError):
    """A defect of a data file, kept in its parts so that a preflight can list it."""

    def __init__(self, where: str, what: str, remedy: str) -> None:
        self.problem = fail(self.code, what, remedy, where=where)
        super().__init__(str(self.problem))


def shown(path: Path) -> str:
    """`path` as a person would type it: relative where it lies below the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def closest(word: str, options: Iterable[str]) -> str | None:
    """The option most like `word`, whatever its case; None when nothing is like it."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def brief(value: object, width: int = 40) -> str:
    """`value` in quotes, shortened to `width` characters."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= width else text[: width - 3] + "...")
