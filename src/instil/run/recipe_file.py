"""Reading a recipe: the YAML file, the values changed from outside, and every problem of both in one message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from instil.core.config import C, Place, Where, parse
from instil.core.errors import ConfigError
from instil.run.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Override:
    """A value that replaces what stands at `place`, and where it was written, such as "--set distil.alpha=0.5"."""

    told: str
    place: Place
    value: Any


def read_recipe(path: Path, overrides: tuple[str, ...] = (), *, changes: Sequence[Override] = ()) -> Recipe:
    """The recipe at `path` with `changes`, then `key.sub=value` overrides. Raises `ConfigError`: every problem, each
    with its line."""
    return read_sections(Recipe, path, [*changes, *map(_override, overrides)])


def read_sections(form: type[C], path: Path, changes: Sequence[Override] = ()) -> C:
    """The YAML file at `path` as a `form`, after `changes`. Raises `ConfigError`: every problem, each with its line."""
    text = _read(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        mapping = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _not_yaml(path, error) from None
    if not isinstance(mapping, dict):
        kind = "empty" if mapping is None else f"a {type(mapping).__name__}"
        raise ConfigError(f"{path}: a recipe is a mapping of sections; this is {kind}; write one with instil init")
    for change in changes:
        _apply(mapping, change)
    repeated = [((str(path), line), f"{key}: stands here a second time; keep one") for key, line in _repeated(node)]
    return parse(form, mapping, where=lambda place: _where(str(path), node, changes, place), known=repeated)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe; write one with instil init") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; give the recipe's YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}); save the recipe as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from None


def _not_yaml(path: Path, error: Exception) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    what = "too deeply nested" if isinstance(error, RecursionError) else getattr(error, "problem", None) or error
    return ConfigError(
        f"{where}: not YAML: {' '.join(str(what).split())}; mend the file, or write one with instil init"
    )


def _override(text: str) -> Override:
    key, equals, value = text.partition("=")
    place = tuple(key.split("."))
    if not equals or not all(place):
        raise ConfigError(f"--set {text}: write it as section.key=value, for example --set distil.alpha=0.5")
    return Override(f"--set {text}", place, _value(value))


def _value(text: str) -> Any:
    """What was typed: a number, true, null, or in brackets or quotes as YAML has it; everything else is the text
    itself, its spaces, colons and # included."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    plain = value is None or isinstance(value, (bool, int, float))
    return value if plain or text.lstrip()[:1] in ("{", "[", '"', "'") else text


def _apply(mapping: dict[Any, Any], override: Override) -> None:
    *sections, last = override.place
    for section in sections:
        inner = mapping.setdefault(section, {})
        if inner is None:
            inner = mapping[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{override.told}: {section} is a value, not a section; see the recipe")
        mapping = inner
    mapping[last] = deepcopy(override.value)  # A later change may go into it.


def _where(path: str, node: yaml.Node | None, changes: Sequence[Override], place: Place) -> Where:
    """Where the value at `place` was written: in a change, or on a line of the file; the closest enclosing line for
    what is missing."""
    keys = tuple(str(part) for part in place)
    line, depth = _line(node, place)
    for change in reversed(changes):
        inside = keys[: len(change.place)] == change.place
        made_by_it = depth < len(keys) and change.place[: len(keys)] == keys
        if inside or made_by_it:
            return change.told, None
    return path, line


def _line(node: yaml.Node | None, place: Place) -> tuple[int | None, int]:
    """The line of the deepest part of `place` that the file has, and how many parts those are."""
    line = None
    for depth, part in enumerate(place):
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        else:
            found = None
        if found is None:
            return line, depth
        line, node = found[0].start_mark.line + 1, found[1]
    return line, len(place)


def _repeated(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys that stand twice in one section, of which YAML would keep the last without a word; each with its line."""
    todo, visited = [(node, "")], set[int]()
    while todo:
        here, above = todo.pop()
        # An alias leads to the same node again, perhaps in a circle.
        if not isinstance(here, yaml.MappingNode) or id(here) in visited:
            continue
        visited.add(id(here))
        seen: set[str] = set()
        for key, value in here.value:
            name = str(key.value)
            if name in seen:
                yield above + name, key.start_mark.line + 1
            seen.add(name)
            todo.append((value, f"{above}{name}."))
