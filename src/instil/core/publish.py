"""Atomic publishing: written aside, flushed, renamed; the manifest goes last. A kill leaves the old or the new."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from instil.core.errors import StorageError, storage_error

ASIDE_PREFIX = ".aside-"
OLD_PREFIX = ".old-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(path: Path) -> Path:
    return path.with_name(f"{ASIDE_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}")


def _renamed(error: OSError, aside: Path, path: Path) -> StorageError:
    """`error` in one line that names `path`, which users know, and not `aside`."""
    return StorageError(str(storage_error(error, path)).replace(str(aside), str(path)))


@contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Yields the name of a file to write beside `path`; on a clean exit it takes the name `path`, replacing an old one.

    On an exception the old file stays. Operating system errors from inside leave as `StorageError`.
    """
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _renamed(error, aside, path) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step. Raises `StorageError` when the disk refuses; the old file stays."""
    with publish_file(path) as aside:
        aside.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode())


def link(source: Path, target: Path) -> None:
    """`target` as a second name of the file `source`, or a copy of it where the disk knows no such thing."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            os.link(source, target)
            return
        aside = _aside(target)
        shutil.copyfile(source, aside)
        aside.replace(target)
    except OSError as error:
        raise storage_error(error, target) from error


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`, which is removed in the end. Operating system errors from inside leave as
    `StorageError` that names `folder`."""
    aside = _aside(folder)
    try:
        aside.mkdir(parents=True)
        yield aside
    except OSError as error:
        raise _renamed(error, aside, folder) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`; on a clean exit it takes the name `folder`, replacing an old one.

    On an exception nothing is published and what was written aside is removed. A kill between the two renames of a
    replacement leaves the old folder under another name; `sweep` puts it back. Operating system errors from inside
    leave as `StorageError`.
    """
    with scratch_folder(folder) as aside:
        yield aside
        for path in aside.rglob("*"):
            if path.is_file():
                _sync(path)
        old = folder.with_name(f"{OLD_PREFIX}{folder.name}")
        if folder.exists():
            _remove(old)
            folder.rename(old)
        aside.rename(folder)
        _sync(folder.parent)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep(root: Path, *, inner: bool = False) -> None:
    """Remove what killed processes left aside directly under `root`, or with `inner` also in the folders below; an old
    folder without a successor is put back."""
    for old in root.glob(f"{OLD_PREFIX}*"):
        folder = root / old.name.removeprefix(OLD_PREFIX)
        if folder.exists():
            _remove(old)
        else:
            old.rename(folder)
    for path in root.glob(f"{ASIDE_PREFIX}*"):
        _remove(path)
    if inner:
        for folder in [path for path in root.rglob("*") if path.is_dir()]:
            sweep(folder)
