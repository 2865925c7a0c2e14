"""The built-in corpus: a Debian package's long description -> its one-line synopsis. DATACARD.md tells its making."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from instil.core.errors import ConfigError, DataError
from instil.data.records import Record

FOLDER = Path(__file__).parent
SPLITS = ("train", "validation", "test")


def load(split: str) -> list[Record]:
    """The records of "train", "validation" or "test", one reference each; `id` is the name of the package.

    The order is the same on every machine and is shuffled already (by a hash of the text).
    Raises `ConfigError` for another split, `DataError` when the shipped file is missing or damaged.
    """
    if split not in SPLITS:
        raise ConfigError(f"synopsis has no split {split!r}; take one of {', '.join(SPLITS)}")
    path = FOLDER / f"{split}.jsonl.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"the built-in corpus cannot be read from {path} ({error}); install instil again") from error
    return [Record(row["id"], row["source"], (row["target"],)) for row in rows]
