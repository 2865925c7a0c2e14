"""A stage: a piece of work whose result is a folder named by the fingerprint of all that it depends on.

    runs/<recipe>/<stage>-<fingerprint>/        finished: result, recipe.yaml, manifest.json
    runs/<recipe>/<stage>-<fingerprint>.part/   under way or interrupted: the same command goes on from here

Same fingerprint, same result: it is reused, and said so. A lock keeps two processes off the same work.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instil.core import console, units
from instil.core.errors import ConfigError, InstilError, storage_error
from instil.core.fingerprint import fingerprint
from instil.core.manifest import Manifest, read_manifest
from instil.core.publish import write_text

CODE_VERSIONS = {"data": 1, "teach": 1, "label": 1, "student": 1, "distil": 1, "evaluate": 1}
"""Raised when a change of the code changes a stage's results, so that old ones are not reused."""


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
    """Where the stages of one recipe run: its folder under runs/, and the resolved recipe that is saved with each."""

    root: Path
    recipe_yaml: str
    seed: int

    def stage(
        self,
        name: str,
        work: Callable[[Path], Mapping[str, Any]],
        *,
        inputs: Mapping[str, str],
        config: Mapping[str, Any],
        label: str = "",
    ) -> Artifact:
        """The artifact of stage `name`; `work(folder)` fills it, only if no finished one has the same fingerprint.

        `work` returns what the manifest keeps as the result. `label` is the stage's name on disk where one kind of
        stage stands twice (the student with and without the teacher). Operating system errors leave as `StorageError`.
        """
        mark = fingerprint(name, CODE_VERSIONS[name], dict(inputs), dict(config), self.seed)
        folder = self.root / f"{label or name}-{mark}"
        found = read_manifest(folder)
        if found is not None:
            console.say(f"{label or name}: reused {folder}")
            return Artifact(folder=folder, manifest=found, reused=True)
        part = folder.with_name(f"{folder.name}.part")
        try:
            part.mkdir(parents=True, exist_ok=True)
            with _lock(part):
                resumed = any(path.name not in ("lock", "recipe.yaml") for path in part.iterdir())
                console.say(f"{label or name}: {'going on in' if resumed else 'making'} {folder}")
                write_text(part / "recipe.yaml", self.recipe_yaml)
                started = time.monotonic()
                result = dict(work(part))
                manifest = Manifest(
                    stage=name, fingerprint=mark, inputs=dict(inputs), config=dict(config), result=result,
                    seed=self.seed, wall_s=round(time.monotonic() - started, 3),
                )  # fmt: skip
                manifest.write(part)
            (part / "lock").unlink(missing_ok=True)
            part.rename(folder)
        except InstilError:
            raise
        except OSError as error:
            raise storage_error(error, part) from error
        console.say(f"{label or name}: done in {units.seconds(manifest.wall_s)}")
        return Artifact(folder=folder, manifest=manifest, reused=False)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Only one process at a time; the lock goes with its process, however that ends."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: another process is at work here; wait for it, or stop it and run the same command again"
            ) from None
        yield
