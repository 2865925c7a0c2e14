"""`instil check`: every room's preflight put together, all problems at once, nothing changed on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from instil.core import console, publish, units
from instil.core.errors import ConfigError, InstilError
from instil.core.fingerprint import fingerprint
from instil.core.manifest import versions
from instil.core.problems import Grade, Problem
from instil.run.check.case import Case
from instil.run.check.groups import GROUPS
from instil.run.pipeline import Pipeline
from instil.run.recipe import Recipe
from instil.run.stages.data import content

VERSION = 1
"""Raised when a change of the checks should make an examined recipe be examined again."""
SAMPLE, SAMPLE_FIRST = 16, 12
"""Validation records that both models answer: when asked to check, and before a run."""


class CheckFailed(InstilError):
    """A recipe that would end in an error or in a worthless result."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem, and the group of checks that found it."""

    group: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Checked:
    """What the checks of `groups` found."""

    recipe: str
    groups: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: float

    def of(self, grade: Grade) -> list[Finding]:
        """The findings of one grade."""
        return [each for each in self.findings if each.problem.grade == grade]

    @property
    def exit_code(self) -> int:
        """1 where something fails."""
        return 1 if self.of("fail") else 0

    def line(self) -> str:
        """How many there are of each, and how long it took."""
        counts = ", ".join(f"{len(self.of(grade))} {grade}" for grade in ("fail", "warn", "info"))
        return f"{counts}, in {units.seconds(self.seconds)}"

    def as_json(self) -> dict[str, Any]:
        """For programs: problems in the order of their groups."""
        return {
            "recipe": self.recipe,
            "groups": list(self.groups),
            "passed": not self.exit_code,
            "problems": [{"group": each.group, **asdict(each.problem)} for each in self.findings],
            "seconds": round(self.seconds, 1),
        }


def chosen_groups(only: str | None) -> tuple[str, ...]:
    """The groups that a text such as "models,data" names; all without one. Raises `ConfigError` for another name."""
    names = tuple(name.strip() for name in only.split(",")) if only else tuple(GROUPS)
    if unknown := [name for name in names if name not in GROUPS]:
        raise ConfigError(f"--only {unknown[0]}: no such group; known are {', '.join(GROUPS)}")
    return tuple(name for name in GROUPS if name in names)


def check(
    recipe: Recipe, base: Path, *, groups: Sequence[str] = tuple(GROUPS), sample: int = SAMPLE, quick: bool = False,
    read: Callable[[], Any] | None = None,
) -> Checked:  # fmt: skip
    """All that `groups` find in `recipe`; paths in it are relative to `base`. `quick` loads no weights, `sample` is the
    number of records that both models answer, `read` gives the data where they were read before."""
    started = time.monotonic()
    case = Case(recipe, base, sample=sample, quick=quick, read=read)
    found: dict[str, list[Problem]] = {}
    with console.progress("check", len(groups), "groups") as advance:
        for number, group in enumerate(groups):
            advance(number, group)
            found[group] = case.part(group, lambda group=group: list(GROUPS[group](case))) or []  # type: ignore[misc]
    # A part may break in the group that first needs it, and be another's.
    everything = {**{group: [] for group in GROUPS}, **found}
    findings = tuple(
        Finding(group, problem)
        for group, problems in everything.items()
        for problem in _ranked([*case.broken.get(group, []), *problems])
    )
    return Checked(recipe.name, tuple(groups), findings, time.monotonic() - started)


def _ranked(problems: Iterable[Problem]) -> list[Problem]:
    """The worst first, otherwise as they came."""
    return sorted(problems, key=lambda problem: ("fail", "warn", "info").index(problem.grade))


def check_first(pipeline: Pipeline) -> None:
    """Checks a pipeline's recipe before it runs; one that passed is not checked again. Raises `CheckFailed`."""
    mark = fingerprint(VERSION, pipeline.recipe, versions(), _stamps(pipeline))
    place = pipeline.root / f"check-{mark}.json"
    if place.is_file():
        return
    checked = check(
        pipeline.recipe, pipeline.base, sample=SAMPLE_FIRST, read=lambda: (pipeline.data.splits, pipeline.data.account)
    )
    for each in checked.of("warn"):
        console.say(f"  warning: {each.problem}")
    console.say(f"  checked: {checked.line()}")
    if failed := checked.of("fail"):
        lines = [str(each.problem) for each in failed]
        raise CheckFailed(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems:", *lines]))
    publish.write_text(place, json.dumps(checked.as_json(), indent=2, ensure_ascii=False) + "\n")


def _stamps(pipeline: Pipeline) -> list[Any]:
    """What tells that data or a model on this machine is another than the one that was checked."""
    recipe = pipeline.recipe
    teachers = (recipe.teacher, *recipe.labels.other_teachers)
    places = [place for each in teachers for place in (each.model, each.adapter)]
    places += [recipe.student.model if recipe.student else None, recipe.labels.store, recipe.evaluate.embedder]
    places += [other.store for other in recipe.labels.others]
    places += [assistant.student.model for assistant in recipe.assistants]
    places += [place for each in recipe.evaluate.systems.values() for place in (each.outputs, each.model)]
    named = [Path(place).expanduser() for place in places if place]
    files = [file for place in named for file in (place, *sorted(place.rglob("*"))) if file.is_file()]
    stamps: list[Any] = [[file.as_posix(), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    with suppress(InstilError):  # What cannot be read is for the checks to tell.
        stamps += sorted(content(recipe, pipeline.base).items())
    return stamps
