"""What a system wrote for each record, scored: kept as JSONL, so that an interrupted evaluation goes on from there."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instil.core import publish
from instil.core.errors import DataError, ModelError
from instil.evaluate.rouge import Rouge

if TYPE_CHECKING:
    from instil.core.protocol import Generator
    from instil.data.records import Record

BATCHES_A_CHUNK = 4
"""Outputs are kept, and progress told, every so many batches; within them a generator may sort by length."""


@dataclass(frozen=True, slots=True)
class ScoredOutput:
    """One output with its ROUGE (percent) and its share of the wall time, in seconds, of the batch it came from."""

    id: str
    source: str
    targets: tuple[str, ...]
    output: str
    rouge1: float
    rouge2: float
    rougeL: float
    rougeLsum: float
    seconds: float


def score_output(record: Record, output: str, *, rouge: Rouge, seconds: float) -> ScoredOutput:
    """`output` for `record`, scored."""
    found = rouge.score(output, record.targets)
    values = (output, found.rouge1, found.rouge2, found.rougeL, found.rougeLsum, seconds)
    return ScoredOutput(record.id, record.source, tuple(record.targets), *values)


def save_outputs(path: Path, outputs: Iterable[ScoredOutput]) -> None:
    """Write `outputs` to `path`, one JSON object a line, in one step. Raises `StorageError` when the disk refuses."""
    lines = (json.dumps(dataclasses.asdict(output), ensure_ascii=False) + "\n" for output in outputs)
    publish.write_text(path, "".join(lines))


def load_outputs(
    path: Path, records: Sequence[Record] | None = None, *, remedy: str = "delete it and run the same command again"
) -> list[ScoredOutput]:
    """The outputs in `path`, an empty list where there is no such file. `remedy`: what to do about a file that is none;
    only what instil wrote itself may be deleted.

    With `records`, each line must belong to the record in its place (same id, source and targets); fewer lines than
    records are what an interrupted evaluation leaves. Raises `DataError` that names the first line that differs.
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_bytes().decode("utf8").split("\n")
    except ValueError as error:
        raise DataError(f"{path}: is not UTF-8; {remedy}") from error
    outputs = [_parse(path, number, line, remedy) for number, line in enumerate(lines, start=1) if line]
    if records is not None:
        _check_same_records(path, outputs, records)
    return outputs


def _parse(path: Path, number: int, line: str, remedy: str) -> ScoredOutput:
    try:
        values: dict[str, Any] = json.loads(line)
        return ScoredOutput(**{**values, "targets": tuple(values["targets"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}:{number}: is not a saved output; {remedy}") from error


def _check_same_records(path: Path, outputs: Sequence[ScoredOutput], records: Sequence[Record]) -> None:
    remedy = "it was made from other data; delete it or evaluate into another folder"
    if len(outputs) > len(records):
        raise DataError(f"{path}: holds {len(outputs)} outputs for {len(records)} records; {remedy}")
    for number, (output, record) in enumerate(zip(outputs, records, strict=False), start=1):
        if output.id != record.id:
            raise DataError(f"{path}:{number}: is for record {output.id!r}, not {record.id!r}; {remedy}")
        if output.source != record.source or output.targets != tuple(record.targets):
            raise DataError(f"{path}:{number}: record {record.id!r} has another source or other targets now; {remedy}")


def produce_outputs(
    system: Generator,
    records: Sequence[Record],
    *,
    rouge: Rouge,
    max_new_tokens: int,
    batch_size: int,
    path: Path | None = None,
    done: Callable[[int], object] | None = None,
) -> list[ScoredOutput]:
    """What `system` writes for `records`, scored; with `path`, kept there and taken up where an earlier call stopped.

    Kept texts are scored anew, so that all scores follow `rouge`. `done` is told how many outputs there are by now.
    Raises `DataError` when `path` is about other records, `ModelError` when a number of outputs is not that of sources.
    """
    kept = load_outputs(path, records) if path else []
    pairs = zip(records, kept, strict=False)
    outputs = [score_output(record, old.output, rouge=rouge, seconds=old.seconds) for record, old in pairs]
    while len(outputs) < len(records):
        if done:
            done(len(outputs))
        chunk = records[len(outputs) : len(outputs) + batch_size * BATCHES_A_CHUNK]
        texts, seconds = _timed(system, [record.source for record in chunk], max_new_tokens, batch_size)
        outputs += [
            score_output(record, text, rouge=rouge, seconds=seconds / len(chunk))
            for record, text in zip(chunk, texts, strict=True)
        ]
        if path:
            save_outputs(path, outputs)
    if done:
        done(len(outputs))
    return outputs


def _timed(system: Generator, sources: list[str], max_new_tokens: int, batch_size: int) -> tuple[list[str], float]:
    start = time.perf_counter()
    texts = system.generate(sources, max_new_tokens=max_new_tokens, batch_size=batch_size)
    seconds = time.perf_counter() - start
    if len(texts) != len(sources):
        counts = f"{len(texts)} outputs for {len(sources)} sources"
        raise ModelError(f"system {system.name!r} gave {counts}; mend its generate()")
    return texts, seconds
