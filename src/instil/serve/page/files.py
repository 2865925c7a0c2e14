"""Batch mode: the texts of an uploaded file, and the file that goes back."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from instil.core.errors import DataError

MOST_ROWS = 1000
MOST_BYTES = 5_000_000
_COLUMNS = ("source", "text", "input", "document", "article", "prompt")


def read_texts(path: Path) -> list[str]:
    """The texts of a `.txt` (one a line), `.jsonl` or `.csv` file. Raises `DataError` for one that is empty, too large
    or has no column of texts."""
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path.name} is larger than {MOST_BYTES // 10**6} MB; cut it into parts")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is no UTF-8 text (byte {error.start}); save it as UTF-8") from error
    lines = text.split("\n")  # Not splitlines: a text may hold other line ends of Unicode.
    if path.suffix == ".jsonl":
        found = [_of_json(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    elif path.suffix == ".csv":
        found = [_of_row(row, number) for number, row in enumerate(_rows(text, path.name), 2)]
    else:
        found = [line for line in lines if line.strip()]
    if not found:
        raise DataError(f"{path.name} holds no texts; put one on each line")
    if len(found) > MOST_ROWS:
        raise DataError(
            f"{path.name} holds {len(found):,} texts, but at most {MOST_ROWS:,} are taken; cut it into parts"
        )
    return found


def _rows(text: str, name: str) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise DataError(f"{name} cannot be read as CSV ({error}); save it as JSONL") from error


def _of_json(line: str, number: int) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"line {number} is no JSON; each line holds one object or one string") from error
    return value if isinstance(value, str) else _of_row(value if isinstance(value, dict) else {}, number)


def _of_row(row: Mapping[str, object], number: int) -> str:
    for column in _COLUMNS:
        if isinstance(value := row.get(column), str):
            return value
    raise DataError(f"line {number} has none of the columns {', '.join(_COLUMNS)}; name the column of texts so")


def write_answers(sources: Sequence[str], answers: Mapping[str, Sequence[str]]) -> Path:
    """A JSONL file, in a folder of its own, with each source and what each model wrote."""
    path = Path(tempfile.mkdtemp(prefix="instil-batch-")) / "answers.jsonl"
    rows = (
        {"source": source, **{name: texts[n] for name, texts in answers.items()}} for n, source in enumerate(sources)
    )
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")
    return path
