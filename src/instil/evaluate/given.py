"""A system of which there is only a file of outputs: another team's model, a paid service, an older run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instil.core.errors import DataError

if TYPE_CHECKING:
    from instil.data.records import Record

_NAMES = ("output", "prediction", "text")


class GivenOutputs:
    """The `Generator` that answers from a file. What it costs is not known, so it is not timed."""

    elsewhere = True
    parameters = 0
    bytes = 0

    def __init__(self, name: str, outputs: Mapping[str, str]) -> None:
        """`outputs`: by source."""
        self.name = name
        self._outputs = outputs

    def generate(self, sources: Sequence[str], *, max_new_tokens: int = 0, batch_size: int = 1) -> list[str]:
        """The output kept for each of `sources`. Both limits were the writer's own."""
        return [self._outputs[source] for source in sources]


def read_given(path: Path, records: Sequence[Record], *, name: str) -> GivenOutputs:
    """The outputs in `path` for `records`.

    JSONL: a line an output, as {"id": ..., "output": ...}, or with the source in place of the id; more lines than
    records do no harm. Any other file: a line an output, as many as records, in their order.
    Raises `DataError` that names the first line or record at fault.
    """
    try:
        # Not splitlines: a text may hold other line ends of Unicode.
        lines = path.read_text(encoding="utf8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file of outputs; check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if path.suffix != ".jsonl":
        if len(lines) != len(records):
            raise DataError(
                f"{path}: has {len(lines)} lines for {len(records)} records; give a line an output, or JSONL with ids"
            )
        return GivenOutputs(name, {record.source: line for record, line in zip(records, lines, strict=True)})
    by_id, by_source = _tables(path, lines)
    found = {record.source: by_id.get(record.id, by_source.get(record.source)) for record in records}
    missing = [record.id for record in records if found[record.source] is None]
    if missing:
        raise DataError(
            f"{path}: lacks {len(missing)} of {len(records)} records, the first is {missing[0]!r};"
            " add them, or evaluate fewer with evaluate.items"
        )
    return GivenOutputs(name, {source: output for source, output in found.items() if output is not None})


def _tables(path: Path, lines: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Outputs by id, and by source."""
    by_id: dict[str, str] = {}
    by_source: dict[str, str] = {}
    for number, row in _rows(path, lines):
        output = next((row[name] for name in _NAMES if isinstance(row.get(name), str)), None)
        if output is None or not ("id" in row or "source" in row):
            raise DataError(f'{path}:{number}: needs an "output" and an "id" or a "source"; has {", ".join(row)}')
        if "id" in row:
            by_id[str(row["id"])] = output
        if "source" in row:
            by_source[str(row["source"])] = output
    return by_id, by_source


def _rows(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: is no JSON object; give one a line")
        yield number, row
