"""`instil search`: tries students of a recipe's teacher, and chooses the one that has learned most within the limits.

A trial times its candidate first, which needs no training, and leaves those that are too slow; the others learn for a
few steps and are given up where faster ones are ahead. Trials stand in one file of the recipe's folder, whatever the
limits, so a killed search goes on, and a further one with other limits starts from what is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from instil.core import console, publish
from instil.core.errors import ConfigError, ModelError
from instil.core.fingerprint import fingerprint
from instil.run.recipe import Recipe
from instil.run.search.bench import Bench
from instil.run.search.front import Rated, front_of, front_svg
from instil.run.search.space import Candidate, Scales, Space, space_of
from instil.run.search.wish import Wish
from instil.run.stage import Artifact, Workshop
from instil.run.stages.cuts import kept_layers
from instil.run.stages.data import Data
from instil.run.stages.label import Labels
from instil.run.stages.teach import Teacher

if TYPE_CHECKING:
    import optuna

_MARK = "search"
FRONT_NAME, PLOT_NAME = "front.json", "front.svg"
_SURELY = 1.1
"""A candidate slower than the limit by this factor speaks for all that are nowhere smaller."""


def run_search(shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher, labels: Labels, wish: Wish) -> Artifact:
    """The artifact with the front and the chosen student. Raises `ConfigError` where nothing keeps to the limits."""
    _check(recipe)
    inputs = {"teacher": teacher.fingerprint, "data": data.fingerprint, "labels": labels.fingerprint}
    student = kept_layers(recipe.student, teacher) if recipe.student else None
    recipe = recipe.model_copy(update={"student": student})
    settings = {
        # A search goes by the main task alone.
        name: getattr(recipe, name).model_dump(mode="json", exclude={"also"})
        for name in ("prompt", "limits", "distil", "evaluate")
    }
    settings["student"] = student.model_dump(mode="json") if student else None
    bench = Bench(recipe, data, teacher, labels, wish)
    return shop.stage(
        "search",
        lambda folder: _Search(bench, shop.root, fingerprint(inputs, settings, shop.seed), folder).run(),
        inputs=inputs,
        config={"wish": wish.model_dump(mode="json"), **settings},
    )


def _check(recipe: Recipe) -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("instil search needs optuna; pip install 'instil[search]'") from error
    if recipe.distil is None:
        raise ConfigError("the recipe has no distil section, so no student learns; add one")
    if recipe.student and (recipe.student.model or recipe.student.scratch):
        raise ConfigError("search cuts students out of the teacher; leave student.model and student.scratch out")


@dataclass
class _Search:
    """One search under way. `mark` is that of all that ratings depend on, beside the wish."""

    bench: Bench
    root: Path
    mark: str
    folder: Path

    @cached_property
    def space(self) -> Space:
        """All that may be tried."""
        return space_of(self.bench.wish.choices, self.bench.whole, self.bench.frame)

    @cached_property
    def scales(self) -> Scales:
        """What candidates are weighed with."""
        return self.bench.scales(self.space)

    @cached_property
    def small_enough(self) -> list[Candidate]:
        """Those that keep to the limits that arithmetic tells, the smallest first."""
        return self.scales.within(self.space.candidates(), self.bench.wish.limits)

    @property
    def _name(self) -> str:
        """What its trials are marked with."""
        return self.folder.name

    def run(self) -> Mapping[str, Any]:
        """What the artifact's manifest keeps; the front and its plot go into the folder."""
        study = self._study()
        self._explore(study)
        rated = [each for each in self._rated(study) if each.candidate in self.small_enough]
        chosen = self._chosen(rated)
        section = self.space.section(chosen.candidate, self.bench.recipe.student).model_dump(
            mode="json", exclude_defaults=True
        )
        result = {
            "chosen": chosen.row(), "student": section, "front": [each.row() for each in front_of(rated)],
            "rated": len(rated), "candidates": len(self.small_enough),
        }  # fmt: skip
        publish.write_text(self.folder / FRONT_NAME, json.dumps(result, indent=2) + "\n")
        publish.write_text(self.folder / PLOT_NAME, front_svg(rated, chosen))
        return result

    def _study(self) -> optuna.Study:
        from instil.run.search.study import FILE_NAME, open_study

        wish = self.bench.wish
        learning = wish.model_dump(mode="json", include={"steps", "reports", "records"})
        name = fingerprint(self.mark, learning, asdict(self.space))
        study = open_study(self.root / FILE_NAME, name, self.bench.recipe.seed, self.small_enough)
        if not study.get_trials(deepcopy=False):
            for place in (0, len(self.small_enough) // 2, -1):
                study.enqueue_trial(asdict(self.small_enough[place]), skip_if_exists=True)
        return study

    def _explore(self, study: optuna.Study) -> None:
        from instil.run.search.study import seconds_of

        budget = 60 * self.bench.wish.minutes
        if known := self._known(study):
            console.say(f"  {len(known)} candidates are known from before")
        with console.progress("search", budget, "s") as advance:
            for _ in range(self.bench.wish.trials):
                left = self._open(known)
                spent = seconds_of(study, self._name)
                if not left or (known and spent >= budget):
                    return
                advance(min(spent, budget), f"{len(known)} of {len(self.small_enough)} candidates tried")
                self._try(study, left)
                known = self._known(study)

    def _known(self, study: optuna.Study) -> dict[Candidate, optuna.trial.FrozenTrial]:
        """What need not be tried again: what has a loss, what this search gave up, what is too slow for it. Another
        search with other limits may have given up what is the best here."""
        from instil.run.search.study import finished, tried

        rated = {trial.number for trial in finished(study)}
        return {
            each: trial for each, trial in tried(study).items()
            if trial.number in rated or trial.user_attrs.get(_MARK) == self._name or self._too_slow(trial.user_attrs)
        }  # fmt: skip

    def _open(self, known: Mapping[Candidate, Any]) -> list[Candidate]:
        tokens = self.scales.tokens
        too_slow = [each for each, trial in known.items() if self._too_slow(trial.user_attrs, by=_SURELY)]
        return [
            each for each in self.small_enough
            if each not in known and not any(each.covers(slow, tokens) for slow in too_slow)
        ]  # fmt: skip

    def _too_slow(self, measured: Mapping[str, Any], by: float = 1.0) -> bool:
        limit = self.bench.wish.limits.latency_ms
        return limit is not None and measured.get("latency_ms", 0) > by * limit

    def _try(self, study: optuna.Study, left: list[Candidate]) -> None:
        """One candidate, timed and taught; what becomes of it is kept in the study."""
        import optuna

        from instil.run.search.study import propose

        trial, candidate = propose(study, self.space, left)
        trial.set_user_attr(_MARK, self._name)
        try:
            teacher_ms, latency_ms = self.bench.milliseconds(self.space, candidate)
            measured = {"teacher_ms": teacher_ms, "latency_ms": latency_ms}
            for name, value in measured.items():
                trial.set_user_attr(name, value)
            if self._too_slow(measured):
                raise optuna.TrialPruned
            study.tell(trial, self.bench.loss(self.space, candidate, lambda step, loss: _report(trial, step, loss)))
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except ModelError as error:
            console.say(f"  {candidate}: left out; {error}")
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def _rated(self, study: optuna.Study) -> list[Rated]:
        from instil.run.search.study import finished, tried

        done = {trial.number for trial in finished(study)}
        return [
            Rated(
                candidate=candidate, latency_ms=trial.user_attrs["latency_ms"], loss=trial.value or 0.0,
                teacher_ms=trial.user_attrs["teacher_ms"], weights=self.scales.weigh(candidate),
            )
            for candidate, trial in tried(study).items()
            if trial.number in done
        ]  # fmt: skip

    def _chosen(self, rated: list[Rated]) -> Rated:
        """The one of least loss that is fast enough when it is timed once more, on all that is timed in evaluation."""
        limit = self.bench.wish.limits.latency_ms
        again: list[Rated] = []
        for each in sorted(rated, key=lambda one: one.loss):
            if limit is not None and each.latency_ms > limit:
                continue
            items = self.bench.recipe.evaluate.latency_items
            teacher_ms, latency_ms = self.bench.milliseconds(self.space, each.candidate, items)
            again.append(replace(each, teacher_ms=teacher_ms, latency_ms=latency_ms))
            if limit is None or latency_ms <= limit:
                return again[-1]
        raise self._none(again)

    def _none(self, again: list[Rated]) -> ConfigError:
        if self.bench.wish.limits.latency_ms is None:
            return ConfigError("none of the students could be made, the reasons stand above; allow other sizes")
        smallest = self.small_enough[0]
        nearest = min(again, key=lambda one: one.latency_ms, default=None)
        candidate = nearest.candidate if nearest else smallest
        needed = nearest.latency_ms if nearest else self.bench.milliseconds(self.space, smallest)[1]
        return ConfigError(
            f"--latency-ms {self.bench.wish.limits.latency_ms:g}: no student that was tried is so fast; the nearest"
            f" ({candidate}) takes {needed:.1f} ms here; raise the limit, allow smaller sizes, or give more --minutes"
        )


def _report(trial: optuna.Trial, step: int, loss: float) -> None:
    import optuna

    trial.report(loss, step)
    if trial.should_prune():
        raise optuna.TrialPruned


def recipe_lines(result: Mapping[str, Any]) -> str:
    """The section `student` to paste into a recipe."""
    return yaml.safe_dump({"student": result["student"]}, sort_keys=False, default_flow_style=None).rstrip()
