"""Content hashes: of values (canonical JSON), of text, of files and folders. Equal content, equal fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

FINGERPRINT_LENGTH = 16
_BLOCK = 1 << 20


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"cannot fingerprint {type(value).__name__}")


def canonical(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def fingerprint(*values: Any) -> str:
    """16 hex digits of SHA-256 over the canonical JSON of `values`."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash_files(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over the names (relative to `root`) and bytes of `paths`, 64 hex digits, whatever their order."""
    entries = sorted((path.relative_to(root).as_posix(), hash_file(path)) for path in paths)
    return hashlib.sha256(canonical(entries).encode()).hexdigest()
