"""From a file and options to a wish; options go over the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instil.core.config import parse
from instil.core.errors import ConfigError
from instil.plan.wish import Wish, read_count, read_hours

_NEEDED = ("teacher", "student", "examples")


def wish_of(
    recipe: Path | None,
    options: Mapping[str, Any],
    *,
    examples: str | None = None,
    within: str | None = None,
    requests_per_day: str | None = None,
) -> Wish:
    """The wish. Raises `ConfigError` that names what is missing."""
    given = {name: value for name, value in options.items() if value is not None}
    if examples is not None:
        given["examples"] = read_count(examples)
    if within is not None:
        given["within_hours"] = read_hours(within)
    if requests_per_day is not None:
        given["requests_per_day"] = read_count(requests_per_day)
    found = {**(read_wish_file(recipe) if recipe else {}), **given}
    missing = [f"--{name}" for name in _NEEDED if name not in found]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} missing; for example: instil plan --teacher gemma-3-27b --student gemma-3-4b "
            "--examples 50k"
        )
    return parse(Wish, found, name=str(recipe) if recipe else "instil plan")


def read_wish_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read ({first}); name a wish in YAML, as under recipes/plan") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: is no wish; it needs at least teacher, student and examples")
    return found
