"""Where an export may stand: in a new folder, an empty one, or with `force` that of an earlier export."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from instil.core.errors import ConfigError
from instil.core.manifest import MANIFEST_NAME
from instil.export.parity import PARITY_NAME
from instil.export.sheet import SHEET_NAME

_ELSE = "give another folder with --out"
_OF_TOKENIZERS = "additional_chat_templates"
"""The one folder that transformers makes inside that of a tokenizer."""


def place_of(out: Path, read: Iterable[Path], *, force: bool) -> Path:
    """`out` without links, where an export may be written. `read`: what the student is read from.

    Raises `ConfigError` where something is there that `force` does not replace, or must not.
    """
    place = out.resolve()
    if not place.exists():
        return place
    if not place.is_dir():
        raise ConfigError(f"{out}: is a file; {_ELSE}")
    if any(_stands_in(path, place) for path in read):
        raise ConfigError(f"{out}: holds the student that is to be exported; {_ELSE}")
    if _stands_in(Path.cwd(), place) or place.is_mount():
        raise ConfigError(f"{out}: is in use, so it cannot be replaced; name a new folder in it with --out")
    if not any(place.iterdir()):
        return place
    if not _is_export(place):
        raise ConfigError(f"{out}: holds other things than an export, which stay, with --force too; {_ELSE}")
    if not force:
        raise ConfigError(f"{out}: exists already; add --force to replace it, or {_ELSE}")
    return place


def _stands_in(path: Path, place: Path) -> bool:
    return path.resolve().is_relative_to(place)


def _is_export(folder: Path) -> bool:
    whole = all((folder / name).is_file() for name in (SHEET_NAME, PARITY_NAME))
    folders = [path for path in folder.iterdir() if path.is_dir() and path.name != _OF_TOKENIZERS]
    return whole and not folders and not (folder / MANIFEST_NAME).exists()
