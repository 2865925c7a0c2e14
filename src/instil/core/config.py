"""The base of all configuration objects: frozen, keyword-only, finite, unknown keys refused with "did you mean".

`parse` turns a mapping into such an object and reports every problem at once, each with its place in the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from instil.core.errors import ConfigError

C = TypeVar("C", bound="Config")
Place = tuple[int | str, ...]
"""Where a value stands: the keys and list positions that lead to it."""
Where = tuple[str, int | None]
"""What a value was written in, such as a file, and the line there."""


class Config(BaseModel):
    """Base of recipe sections. Values never change after construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def parse(
    model: type[C],
    mapping: Mapping[str, Any],
    *,
    name: str = "recipe",
    where: Callable[[Place], Where] | None = None,
    known: Sequence[tuple[Where, str]] = (),
) -> C:
    """`mapping` as a `model`. Raises `ConfigError` that lists all problems by line, each as "file:line: key: ...".

    `where` tells where the value at a place was written, if anything more is known of it than the `name` of the whole.
    `known` are problems that were found before.
    """
    problems = list(known)
    try:
        found = model.model_validate(mapping)
    except ValidationError as error:
        problems += [_problem(model, detail, where or (lambda _: (name, None))) for detail in error.errors()]
    if problems:
        problems.sort(key=lambda problem: problem[0][1] or 0)
        lines = (f"{file}:{line}: {what}" if line else f"{file}: {what}" for (file, line), what in problems)
        raise ConfigError("\n".join(dict.fromkeys(lines)))
    return found


def _problem(model: type[BaseModel], detail: ErrorDetails, where: Callable[[Place], Where]) -> tuple[Where, str]:
    place = _place(model, detail["loc"])
    key = ".".join(str(part) for part in place)
    message = _message(model, detail, place)
    return where(place), f"{key}: {message}" if key else message


def _place(model: type[BaseModel], location: Place) -> Place:
    """`location` without what pydantic adds to it: which member of a union it tried."""
    place: list[int | str] = []
    section: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            place.append(part)
        elif section is not None and part != section.__name__:
            place.append(part)
            field = section.model_fields.get(part)
            section = _section(field.annotation) if field else None
    return tuple(place)


def _message(model: type[BaseModel], detail: ErrorDetails, place: Place) -> str:
    if detail["type"] == "extra_forbidden":
        return f"unknown key{_did_you_mean(str(place[-1]), _siblings(model, place))}"
    if detail["type"] == "missing":
        return "missing; add it"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    value = detail.get("input")
    if detail["type"] == "literal_error":
        options = str(detail.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
        return f"is {value!r}; choose one of {', '.join(options)}{_close_to(str(value), options)}"
    if detail["type"] in ("model_type", "dict_type", "model_attributes_type"):
        fields = _siblings(model, (*place, ""))
        return f"is {value!r}, but it has parts of its own{': ' if fields else ''}{', '.join(fields)}"
    if detail["type"] == "string_type" and value is None:
        return "is empty; give a text"
    return f"{message} (found {value!r})" if isinstance(value, (str, int, float, bool)) else message


def _did_you_mean(word: str, options: list[str]) -> str:
    return _close_to(word, options) or (f"; known: {', '.join(options)}" if options else "")


def _close_to(word: str, options: list[str]) -> str:
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _siblings(model: type[BaseModel], place: Place) -> list[str]:
    """Names of the fields beside the last key of `place`."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        inner = _section(field.annotation) if field else None
        if inner is None:
            if isinstance(part, int):
                continue
            return []
        model = inner
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _section(arg))), None)
