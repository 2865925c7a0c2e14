"""The record: one source text with its reference targets; and writing records down."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from instil.core import publish
from instil.core.fingerprint import FINGERPRINT_LENGTH

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)
HELD_OUT: tuple[SplitName, ...] = ("validation", "test")


MAIN_TASK = "main"


@dataclass(frozen=True, slots=True)
class Record:
    """A source text and one or several reference targets. `id` is unique over all splits of a data set; `task` is which
    of several data sets it is from."""

    id: str
    source: str
    targets: tuple[str, ...]
    task: str = MAIN_TASK


Splits = dict[str, list[Record]]
"""Records by split name: "train", "validation", "test"."""


def as_mapping(record: Record) -> dict[str, object]:
    """`record` as it stands in a JSONL file: `target` where there is one, else `targets`."""
    answer = {"target": record.targets[0]} if len(record.targets) == 1 else {"targets": list(record.targets)}
    task = {} if record.task == MAIN_TASK else {"task": record.task}
    return {"id": record.id, **task, "source": record.source, **answer}


def record_of_mapping(row: Mapping[str, Any]) -> Record:
    """What `as_mapping` wrote. Raises `KeyError` or `TypeError` for anything else."""
    return Record(row["id"], row["source"], tuple(row.get("targets") or [row["target"]]), row.get("task", MAIN_TASK))


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Replace `path` by `records`, one JSON object a line; compressed where the name ends in .gz.

    The same records give the same bytes. Raises `StorageError` when the disk refuses.
    """
    content = "".join(json.dumps(as_mapping(record), ensure_ascii=False) + "\n" for record in records).encode()
    publish.write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def data_fingerprint(splits: Splits) -> str:
    """16 hex digits of SHA-256 over every record of `splits`, split by split, in order."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        digest.update(f"{name} {len(splits[name])}\n".encode())
        for record in splits[name]:
            line = json.dumps([record.id, record.source, record.targets, *_named(record.task)], ensure_ascii=False)
            digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


def _named(task: str) -> list[str]:
    """Nothing for the main task, so that data of one task keep their fingerprint."""
    return [] if task == MAIN_TASK else [task]
