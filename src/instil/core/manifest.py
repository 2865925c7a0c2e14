"""The manifest of an artifact folder: what it was made from, how, on what, in which time. Written last."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import instil
from instil.core import publish
from instil.core.errors import StorageError

MANIFEST_NAME = "manifest.json"
_VERSIONED = ("torch", "transformers", "tokenizers", "accelerate", "peft", "safetensors", "rouge-score", "numpy")


def versions() -> dict[str, str]:
    """Versions of instil, Python and the libraries that results depend on, as far as they are installed."""
    found = {"instil": instil.__version__, "python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """The machine: architecture, system, usable processors."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"machine": platform.machine(), "system": platform.system(), "cores": str(cores)}


class Manifest(BaseModel):
    """What stands in `manifest.json`. `inputs` maps a role (teacher, data, ...) to its fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    fingerprint: str
    inputs: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    result: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    wall_s: float = 0.0
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = Field(default_factory=versions)
    hardware: dict[str, str] = Field(default_factory=hardware)

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`, in one step."""
        publish.write_text(folder / MANIFEST_NAME, self.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`, or None where there is none. Raises `StorageError` for one that is damaged."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate(json.loads(path.read_text(encoding="utf8")))
    except ValueError as error:
        raise StorageError(f"{path}: damaged manifest; delete the folder and run the same command again") from error
