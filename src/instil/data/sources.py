"""From the places a recipe names to tables: the built-in corpus, files, folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from instil.data import hub
from instil.data.columns import wanted
from instil.data.config import Places
from instil.data.formats import SUPPORTED, format_of, open_table
from instil.data.problems import BadData, closest, shown
from instil.data.records import SPLIT_NAMES, SplitName
from instil.data.tables import Table

BUILT_IN = {"synopsis": Path(__file__).parent / "synopsis"}
_SPLIT_OF_NAME: tuple[tuple[SplitName, re.Pattern[str]], ...] = (
    ("train", re.compile(r"train(ing)?([-_.\d].*)?$", re.IGNORECASE)),
    ("validation", re.compile(r"(validation|valid|val|dev)([-_.\d].*)?$", re.IGNORECASE)),
    ("test", re.compile(r"test(ing)?([-_.\d].*)?$", re.IGNORECASE)),
)


@dataclass(frozen=True, slots=True)
class Origin:
    """One table to read, and the split that its records belong to: a `file`, or else a split of the hub."""

    split: SplitName
    place: str
    file: Path | None = None
    hub_split: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be read. `given`: splits that somebody brings; the held-out ones among the rest are cut from train."""

    origins: tuple[Origin, ...]
    given: frozenset[SplitName]
    notes: tuple[str, ...] = ()


def plan(config: Places, base: Path) -> Plan:
    """Find everything that `config` names, relative to `base`. Raises `BadData` for what is not there."""
    origins: list[Origin] = []
    notes: list[str] = []
    if config.source is not None:
        found, notes = _source_origins(config.source, config, base)
        overridden = {name for name in SPLIT_NAMES if getattr(config, name) is not None}
        origins += [origin for origin in found if origin.split not in overridden]
    for name in SPLIT_NAMES:
        if (place := getattr(config, name)) is not None:
            origins += _split_origins(place, name, config, base)
    return Plan(tuple(origins), frozenset(origin.split for origin in origins), tuple(notes))


def open_origin(origin: Origin, config: Places) -> Table:
    """The table of `origin`. Raises `BadData` when it cannot be opened, or is empty."""
    used = wanted(config.columns)
    if origin.file is not None:
        return open_table(origin.file, used)
    split = origin.hub_split or origin.split
    return hub.table_of(origin.place, config=config.config, split=split, revision=config.revision, wanted=used)


def _source_origins(place: str, config: Places, base: Path) -> tuple[list[Origin], list[str]]:
    if hub.is_hub(place):
        if config.split is not None:
            return [Origin("train", place, hub_split=config.split)], []
        names = hub.split_names(place, config=config.config, revision=config.revision)
        found = {split_of_name(name): name for name in reversed(names)}
        if "train" not in found:
            raise BadData(place, f"has no split 'train'; found {', '.join(names)}", "set data.split to the one to use")
        return [Origin(split, place, hub_split=name) for split, name in found.items() if split is not None], []
    files = _files(place, base)
    root = _path(place, base)
    by_split = {file: _split_of_file(file, root) for file in files} if root.is_dir() else {}
    if "train" not in by_split.values():
        return [Origin("train", place, file) for file in files], []
    skipped = [file for file in files if by_split[file] is None]
    origins = [Origin(split, place, file) for file in files if (split := by_split[file]) is not None]
    if place in BUILT_IN or not skipped:
        return origins, []
    examples = ", ".join(file.name for file in skipped[:3])
    note = f"{shown(root)}: {len(skipped)} files named after no split were left out ({examples})"
    return origins, [note]


def _split_origins(place: str, split: SplitName, config: Places, base: Path) -> list[Origin]:
    if hub.is_hub(place):
        return [Origin(split, place, hub_split=(config.split if split == "train" else None) or split)]
    files = _files(place, base)
    if place in BUILT_IN:
        files = [file for file in files if split_of_name(file.name) == split]
    return [Origin(split, place, file) for file in files]


def split_of_name(name: str) -> SplitName | None:
    """The split that a file or hub split called `name` holds: "dev-0001.jsonl" holds validation."""
    return next((split for split, pattern in _SPLIT_OF_NAME if pattern.match(name)), None)


def _split_of_file(file: Path, root: Path) -> SplitName | None:
    names = [*reversed(file.relative_to(root).parts)]
    return next((split for name in names if (split := split_of_name(name)) is not None), None)


def _path(place: str, base: Path) -> Path:
    return BUILT_IN[place] if place in BUILT_IN else base / Path(place).expanduser()


def _files(place: str, base: Path) -> list[Path]:
    """The files of a local `place`, in the order of their names."""
    if "://" in place:
        scheme = place.partition("://")[0]
        remedy = "download it and give the file, or use hub:owner/name"
        raise BadData(place, f"{scheme}:// addresses are not read", remedy)
    path = _path(place, base)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise _missing(place, path)
    visible = (file for file in path.rglob("*") if not any(p.startswith(".") for p in file.relative_to(path).parts))
    files = sorted(file for file in visible if file.is_file() and format_of(file))
    if not files:
        raise BadData(shown(path), "is a folder without data files", SUPPORTED)
    return files


def _missing(place: str, path: Path) -> BadData:
    folder = path.parent
    if not folder.is_dir():
        return BadData(shown(path), f"does not exist, nor does its folder {shown(folder)}", "check the path")
    names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    if (near := closest(path.name, names)) or (place.isidentifier() and (near := closest(place, BUILT_IN))):
        return BadData(shown(path), "does not exist", f"did you mean {near!r}?")
    data = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and format_of(entry))
    there = f"in {shown(folder)} there are {', '.join(data[:6])}" if data else f"{shown(folder)} holds no data files"
    return BadData(shown(path), "does not exist", f"{there}; or write 'synopsis', or hub:owner/name")
