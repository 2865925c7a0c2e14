"""The record: one source text with its reference targets; and writing records down."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from instil.core import publish
from instil.core.fingerprint import FINGERPRINT_LENGTH

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)
HELD_OUT: tuple[SplitName, ...] = ("validation", "test")


@dataclass(frozen=True, slots=True)
class Record:
    """A source text and one or several reference targets. `id` is unique over all splits of a data set."""

    id: str
    source: str
    targets: tuple[str, ...]


Splits = dict[str, list[Record]]
"""Records by split name: "train", "validation", "test"."""


def as_mapping(record: Record) -> dict[str, object]:
    """`record` as it stands in a JSONL file: `target` where there is one, else `targets`."""
    answer = {"target": record.targets[0]} if len(record.targets) == 1 else {"targets": list(record.targets)}
    return {"id": record.id, "source": record.source, **answer}


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
            line = json.dumps([record.id, record.source, record.targets], ensure_ascii=False)
            digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:FINGERPRINT_LENGTH]
