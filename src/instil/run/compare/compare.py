"""Ways to come by the same student, side by side: every way trained with every seed, one after the other so that none
disturbs another, then all examined together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from instil.core import console
from instil.core.errors import ConfigError, InstilError, line_of
from instil.core.processes import together
from instil.run.pipeline import Pipeline
from instil.run.recipe_file import Override, read_recipe, read_sections
from instil.run.sections.compare import CompareConfig
from instil.run.stage import Artifact


@dataclass
class Run:
    """One way with one seed."""

    way: str
    seed: int
    pipeline: Pipeline

    @property
    def name(self) -> str:
        """What its outputs are called by."""
        return f"{self.way}, seed {self.seed}"

    @cached_property
    def student(self) -> Artifact:
        """The trained student, made on first use."""
        return self.pipeline.student


@dataclass
class Plan:
    """All runs of a comparison, seed by seed, so that a comparison that is cut short has whole rounds."""

    config: CompareConfig
    runs: list[Run]

    @property
    def first(self) -> Pipeline:
        """The pipeline of the way that all others are held against: for data and teacher, which all share."""
        return next(run.pipeline for run in self.runs if run.way == self.config.against)

    @property
    def budget(self) -> str:
        """Of each run's training."""
        return _budget(self.first)

    def train(self) -> dict[str, str]:
        """Trains what is not trained yet. Gives the ways that failed, each with its first error; their further seeds
        are left out. Raises the error of the way that all are held against, and that of processes which work together:
        the others would wait for ever."""
        failed: dict[str, str] = {}
        for number, run in enumerate(self.runs, 1):
            if run.way in failed:
                continue
            console.say(f"[{number}/{len(self.runs)}] {run.name}")
            try:
                _ = run.student
            except Exception as error:
                said = line_of(error)
                if said is None:
                    error.add_note(f"while training {run.name}")
                    raise
                if run.way == self.config.against or together() > 1:
                    raise _named(error, f"{run.name}: {said}") from error
                failed[run.way] = f"seed {run.seed}: {said}"
                console.say(f"{run.name}: {said}")
        return failed

    def without(self, ways: Collection[str]) -> Plan:
        """The plan of all other ways."""
        left = {way: changes for way, changes in self.config.ways.items() if way not in ways}
        return Plan(self.config.model_copy(update={"ways": left}), [run for run in self.runs if run.way in left])


def _named(error: Exception, message: str) -> InstilError:
    """The same kind of error with another message."""
    return type(error)(message) if isinstance(error, InstilError) else InstilError(message)


def read_plan(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """The comparison written at `path`, every recipe in it read and judged before anything is run.

    `overrides` go over every way. Raises `ConfigError` for a mistake in any, and where budgets or records differ.
    """
    config = read_sections(CompareConfig, path)
    base = path.parent / config.recipe
    seed = read_recipe(base, tuple(overrides), changes=list(_changes(path, "common", config.common))).seed
    runs = [
        Run(way, seed + offset, _pipeline(path, config, base, way, seed + offset, overrides))
        for offset in range(config.seeds)
        for way in config.ways
    ]
    _check_alike(path, runs)
    return Plan(config, runs)


def _pipeline(path: Path, config: CompareConfig, base: Path, way: str, seed: int, overrides: Sequence[str]) -> Pipeline:
    changes = [
        *_changes(path, "common", config.common),
        *_changes(path, f"ways.{way}", config.ways[way]),
        Override(f"{path}: name", ("name",), config.name),
        Override(f"{path}: seeds", ("student_seed",), seed),
    ]
    return Pipeline(read_recipe(base, tuple(overrides), changes=changes), Path())


def _changes(path: Path, section: str, values: dict[str, object]) -> Iterator[Override]:
    return (Override(f"{path}: {section}.{key}", tuple(key.split(".")), value) for key, value in values.items())


def _budget(pipeline: Pipeline) -> str:
    distil = pipeline.recipe.distil
    return str(distil.loop.budget) if distil else "none"


def _check_alike(path: Path, runs: Sequence[Run]) -> None:
    """A comparison is one of ways only where all have the same time and are examined on the same records."""
    first = runs[0]
    for run in runs:
        if run.pipeline.recipe.distil is None:
            raise ConfigError(f"{path}: way {run.way!r} has no distil section, so it trains nothing; add one")
        if _budget(run.pipeline) != _budget(first.pipeline):
            raise ConfigError(
                f"{path}: way {run.way!r} has a budget of {_budget(run.pipeline)}, {first.way!r} one of"
                f" {_budget(first.pipeline)}; give all the same, in common: {{distil.loop.budget: {{minutes: 5}}}}"
            )
        for part in ("data", "evaluate", "teacher", "prompt"):
            if getattr(run.pipeline.recipe, part) != getattr(first.pipeline.recipe, part):
                raise ConfigError(
                    f"{path}: ways {run.way!r} and {first.way!r} differ in section {part}, so their numbers do not"
                    " compare; change it in common instead"
                )
