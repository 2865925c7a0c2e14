"""What a converter says of a model that it does not know, or of a full disk, as one line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instil.core.errors import ModelError
from instil.models.folders import first_line
from instil.models.head import describe

_ROOM = 1 << 20


@contextmanager
def converting(model: Any, name: str) -> Iterator[None]:
    """Raises `ModelError` for a `model` that the converter to `name` cannot take.

    Converters have no errors of their own: these are what they meet in a model that they were not written for. What a
    missing library or a full disk raises passes.
    """
    try:
        yield
    except (ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"{describe(model)} cannot be converted to {name} ({first_line(error)}); choose another format"
        ) from error


@contextmanager
def saving(folder: Path, size: int = _ROOM) -> Iterator[None]:
    """Raises `OSError` with the system's number where something fails and `folder` does not take `size` bytes.

    Libraries that write by themselves say so in words of their own, so it is tried: that finds quotas too. `size` is of
    what they write where they remove it when they fail.
    """
    try:
        yield
    except Exception as error:
        try:
            _fill(folder, size)
        except OSError as refused:
            raise refused from error
        raise


def _fill(folder: Path, size: int) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(0, size, _ROOM):
            file.write(bytes(_ROOM))
