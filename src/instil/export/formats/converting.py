"""What a converter says of a model that it does not know, as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from instil.core.errors import ModelError
from instil.models.folders import first_line
from instil.models.head import describe


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
