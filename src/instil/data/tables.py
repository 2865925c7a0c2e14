"""What every format is read as: a table, its rows as mappings, each with its line or row number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from instil.data.problems import BadData

Row = tuple[int, Mapping[str, object]]
"""A line or row number, counted from 1, and the values by column."""
_LOOKED_AT = 1000
"""Rows that are looked at for their columns where a format does not list them: an object may lack what others have."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that are read once, as they are asked for. `lists_as_text`: lists stand in cells as JSON."""

    name: str
    columns: tuple[str, ...]
    rows: Iterator[Row]
    numbered_by: str = "line"
    lists_as_text: bool = False

    def place(self, number: int) -> str:
        """Where row `number` stands, for messages."""
        return f"{self.name}:{number}" if self.numbered_by == "line" else f"{self.name}, {self.numbered_by} {number}"


def table(
    name: str,
    rows: Iterator[Row],
    *,
    columns: tuple[str, ...] | None = None,
    numbered_by: str = "line",
    lists_as_text: bool = False,
) -> Table:
    """A `Table` whose columns are, where not given, those of its first rows. Raises `BadData` when there is no row."""
    first = list(islice(rows, _LOOKED_AT if columns is None else 1))
    if not first:
        raise BadData(name, "holds no records", "fill the file, or leave it out")
    found = tuple(dict.fromkeys(key for _, row in first for key in row)) if columns is None else columns
    return Table(name, found, chain(first, rows), numbered_by, lists_as_text)
