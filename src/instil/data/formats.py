"""Which files can be read, and as what."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from instil.data.json_rows import json_rows
from instil.data.problems import BadData, shown
from instil.data.table_rows import csv_table, parquet_table
from instil.data.tables import Table, table
from instil.data.text_files import unreadable

TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SUPPORTED = "supported are .jsonl, .json, .csv, .tsv (each also .gz) and .parquet"


def format_of(path: Path) -> str | None:
    """The ending that says how to read `path` (".csv" for a.CSV.gz); None for one that cannot be read."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return ".parquet"
    name = name.removesuffix(".gz")
    return next((ending for ending in TEXT_FORMATS if name.endswith(ending)), None)


def open_table(path: Path, wanted: Collection[str]) -> Table:
    """The file `path` as a table of at least the columns `wanted`, where it has them.

    Raises `BadData` for a file that is unreadable, empty, of an unknown format, or whose beginning is broken; the
    rest of it is checked as its rows are read.
    """
    kind = format_of(path)
    if kind is None:
        raise BadData(shown(path), f"cannot be read as data ({path.suffix or 'no ending'})", SUPPORTED)
    try:
        if path.stat().st_size == 0:
            raise BadData(shown(path), "is empty (0 bytes)", "fill the file, or leave it out")
    except OSError as error:
        raise unreadable(path, error) from error
    if kind == ".parquet":
        return parquet_table(path, wanted)
    if kind in (".csv", ".tsv"):
        return csv_table(path, tabs=kind == ".tsv")
    return table(shown(path), json_rows(path))
