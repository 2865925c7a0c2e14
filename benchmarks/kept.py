"""Rows of a benchmark that outlive a kill: what was measured with the same settings is not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from instil.core import publish
from instil.core.fingerprint import fingerprint


def kept(folder: Path, settings: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row of `settings`: from its file in `folder`, or from `measure`, which then writes it there. Both are plain
    JSON. Delete the file to measure anew."""
    path = folder / f"{fingerprint(dict(settings))}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))["row"]
        return found
    row = measure()
    publish.write_text(path, json.dumps({"settings": dict(settings), "row": row}, indent=2) + "\n")
    return row
