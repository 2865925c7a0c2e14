"""Tables out of CSV, TSV and Parquet files."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from instil.data import text_files
from instil.data.problems import BadData, brief, shown
from instil.data.tables import Row, Table, table

if TYPE_CHECKING:
    import pyarrow.parquet

FIELD_CHARACTERS = 2**31 - 1
_PARQUET_ROWS = 1024
_QUOTING = 'put text that holds quotes, separators or line breaks in quotes, and write a quote inside it twice ("")'


def csv_table(path: Path, *, tabs: bool) -> Table:
    """A CSV or TSV file with a header line. A CSV file may separate by semicolons or tabs: its header decides."""
    csv.field_size_limit(FIELD_CHARACTERS)
    lines = text_files.lines(path)
    first = next(lines, "")
    if not first.strip():
        raise BadData(f"{shown(path)}:1", "the header line is empty", "name the columns in the first line")
    delimiter = "\t" if tabs else max(",;\t", key=first.count)
    reader = csv.reader(_with_first(first, lines), delimiter=delimiter, strict=True)
    header = _header(reader, path)
    return table(shown(path), _csv_rows(reader, header, path), columns=tuple(header), lists_as_text=True)


def _with_first(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _next(reader: Iterator[list[str]], path: Path, line: int) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        if "new-line character" in str(error):
            remedy = f"convert the old Macintosh line ends with: tr '\\r' '\\n' < {path.name} > fixed-{path.name}"
            raise BadData(f"{shown(path)}:{line}", "has bare carriage returns as line ends", remedy) from None
        what = "an opening quote is never closed" if "unexpected end" in str(error) else f"broken quoting ({error})"
        raise BadData(f"{shown(path)}:{line}", what, _QUOTING) from None


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    header = [name.strip() for name in _next(reader, path, 1) or []]
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise BadData(f"{shown(path)}:1", f"column {twice!r} stands twice in the header", "rename one of them")
    return header


def _csv_rows(reader: Iterator[list[str]], header: list[str], path: Path) -> Iterator[Row]:
    line = reader.line_num + 1  # type: ignore[attr-defined]
    while (cells := _next(reader, path, line)) is not None:
        if cells and len(cells) != len(header):
            what = f"{len(cells)} fields where the header has {len(header)}, beginning {brief(cells[0])}"
            raise BadData(f"{shown(path)}:{line}", what, _QUOTING)
        if cells:
            yield line, dict(zip(header, cells, strict=True))
        line = reader.line_num + 1  # type: ignore[attr-defined]


def parquet_table(path: Path, wanted: Collection[str]) -> Table:
    """A Parquet file; only the columns in `wanted` are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _bad_parquet(path, error) from None
    columns = tuple(file.schema_arrow.names)
    rows = _parquet_rows(file, [name for name in columns if name in wanted], path)
    return table(shown(path), rows, columns=columns, numbered_by="row")


def _parquet_rows(file: pyarrow.parquet.ParquetFile, columns: list[str], path: Path) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    try:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _bad_parquet(path, error, number) from None


def _bad_parquet(path: Path, error: Exception, row: int = 0) -> BadData:
    where = f"{shown(path)}, after row {row}" if row else shown(path)
    if isinstance(error, UnicodeDecodeError):
        return BadData(where, "holds text that is not UTF-8", "write the file again with UTF-8 text")
    reason = " ".join(str(error).split())[:90]
    return BadData(where, f"is no whole Parquet file ({reason})", "it is torn or of another format; fetch it again")
