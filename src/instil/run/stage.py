"""A stage: a piece of work whose result is a folder named by the fingerprint of all that it depends on.

    runs/<recipe>/<stage>-<fingerprint>/        finished: result, recipe.yaml, manifest.json
    runs/<recipe>/<stage>-<fingerprint>.part/   under way or interrupted: the same command goes on from here

The manifest's `wall_s` are the seconds of all commands that worked at it.

Same fingerprint, same result: it is reused, and said so. A lock keeps two processes off the same work; those that a
launcher started together train together, and wait for the first with all else (core/processes.py).
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from instil.core import console, units
from instil.core.errors import ConfigError, storage_error
from instil.core.fingerprint import fingerprint
from instil.core.manifest import MANIFEST_NAME, Manifest, read_manifest
from instil.core.processes import is_first, together
from instil.core.publish import sweep, write_text
from instil.run.elapsed import ELAPSED_NAME, counted, keep_elapsed

CODE_VERSIONS = {
    "data": 1, "teach": 1, "synthesise": 1, "label": 2, "student": 2, "candidate": 1, "search": 1, "distil": 2,
    "compress": 1, "evaluate": 2, "compare": 2,
}  # fmt: skip
"""Raised when a change of the code changes a stage's results, so that old ones are not reused."""

TRAINING = frozenset({"teach", "distil", "compress"})
"""Stages whose work several processes share."""
OF_STUDENTS = frozenset({"student", "distil", "compress"})
"""Stages that go by the student's seed, where a recipe gives it one of its own."""
_LOOK_EVERY_SECONDS = 0.2

LOCK_NAME, RECIPE_NAME = "lock", "recipe.yaml"
_OF_NO_WORK = frozenset({LOCK_NAME, RECIPE_NAME, ELAPSED_NAME})
"""Files of a folder in which nothing has been done yet."""
Work = Callable[[Path], Mapping[str, Any]]
"""Fills a folder, going on from what an interrupted call left there; returns what the manifest keeps as the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished stage: its folder and manifest, and whether it was there already."""

    folder: Path
    manifest: Manifest
    reused: bool

    @property
    def fingerprint(self) -> str:
        """What later stages name this one by."""
        return self.manifest.fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where the stages of one recipe run: its folder under runs/, the resolved recipe that is saved with each, and what
    their names on disk begin with."""

    root: Path
    recipe_yaml: str
    seed: int
    student_seed: int
    prefix: str = ""

    def stage(
        self,
        name: str,
        work: Work,
        *,
        inputs: Mapping[str, str],
        config: Mapping[str, Any],
        label: str = "",
        damage: Callable[[Path], str] = lambda _: "",
    ) -> Artifact:
        """The artifact of stage `name`; `work(folder)` fills it, only if no finished one has the same fingerprint.

        `label` is the stage's name on disk where one kind of stage stands twice (the student with and without the
        teacher). `damage(folder)` says what is broken in a finished artifact; if anything is, `work` is called again to
        mend it. Operating system errors leave as `StorageError`.
        """
        seed = self.student_seed if name in OF_STUDENTS else self.seed
        mark = fingerprint(name, CODE_VERSIONS[name], dict(inputs), dict(config), seed)
        label = f"{self.prefix}{label or name}"
        folder = self.root / f"{label}-{mark}"
        describe = partial(Manifest, stage=name, fingerprint=mark, inputs=dict(inputs), config=dict(config), seed=seed)
        try:
            found = _found(folder, damage)
            if found is not None:
                console.say(f"{label}: reused {folder}")
                return Artifact(folder=folder, manifest=found, reused=True)
            manifest = self._in_turn(name, label, folder, work, describe)
        except OSError as error:
            raise storage_error(error, folder) from error
        console.say(f"{label}: done in {units.seconds(manifest.wall_s)}")
        return Artifact(folder=folder, manifest=manifest, reused=False)

    def _in_turn(self, name: str, label: str, folder: Path, work: Work, describe: Callable[..., Manifest]) -> Manifest:
        """The stage made by this process, or with the others that were started together, or by the first of them."""
        if together() > 1 and name in TRAINING:
            work = _shared(work)
            if not is_first():
                work(_part_of(folder))
        return self._make(label, folder, work, describe) if is_first() else _made_by_first(folder)

    def _make(self, label: str, folder: Path, work: Work, describe: Callable[..., Manifest]) -> Manifest:
        part = _part_of(folder)
        with _lock(part):
            if found := read_manifest(folder):
                shutil.rmtree(part, ignore_errors=True)
                return found  # Another process was faster.
            sweep(part, inner=True)
            resumed = any(path.name not in _OF_NO_WORK for path in part.iterdir())
            console.say(f"{label}: {'going on in' if resumed else 'making'} {folder}")
            write_text(part / RECIPE_NAME, self.recipe_yaml)
            with counted(part) as elapsed:
                result = dict(work(part))
                manifest = describe(result=result, wall_s=round(elapsed(), 3))
            manifest.write(part)
            part.rename(folder)
            for name in (LOCK_NAME, ELAPSED_NAME):
                (folder / name).unlink(missing_ok=True)
        return manifest


def _meet() -> None:
    """Waits for all processes; the first time, it makes them a group, each on a device of its own."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.accelerator.is_available()).wait_for_everyone()


def _shared(work: Work) -> Work:
    """`work` by all processes in one folder, which the first has prepared; none leaves before all are done."""

    def shared(part: Path) -> Mapping[str, Any]:
        _meet()
        result = work(part)
        _meet()
        return result

    return shared


def _made_by_first(folder: Path) -> Manifest:
    """Waits until the first process has finished `folder`; should that fail, the launcher ends all."""
    while not (found := read_manifest(folder) if folder.is_dir() else None):
        time.sleep(_LOOK_EVERY_SECONDS)
    return found


def _part_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")


def _found(folder: Path, damage: Callable[[Path], str]) -> Manifest | None:
    """As `_finished`; of several processes the first looks and mends, and all see the same."""
    if together() == 1:
        return _finished(folder, damage)
    found = _finished(folder, damage) if is_first() else None
    _meet()
    return found if is_first() or not folder.is_dir() else read_manifest(folder)


def _finished(folder: Path, damage: Callable[[Path], str]) -> Manifest | None:
    """The manifest of a finished artifact; None where there is work to do, and then `folder` is out of the way."""
    part = _part_of(folder)
    if (part / MANIFEST_NAME).is_file() and not folder.exists():
        with _lock(part):
            part.rename(folder)  # Killed between its last two steps.
    if not folder.is_dir():
        return None
    found = read_manifest(folder)
    broken = damage(folder) if found else f"{MANIFEST_NAME} is gone"
    if not broken:
        return found
    console.say(f"{folder}: {broken}; mending it")
    if part.exists():
        shutil.rmtree(folder)
    else:
        folder.rename(part)
        (part / MANIFEST_NAME).unlink(missing_ok=True)
        if found:
            keep_elapsed(part, found.wall_s)
    return None


@contextmanager
def _lock(part: Path) -> Iterator[None]:
    """Only one process at a time; the lock goes with its process, however that ends."""
    part.mkdir(parents=True, exist_ok=True)
    with (part / LOCK_NAME).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{part}: another process is at work here; wait for it, or stop it and run the same command again"
            ) from None
        yield
