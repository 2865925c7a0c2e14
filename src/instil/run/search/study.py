"""A search's memory: an optuna study in an SQLite file, which a killed search goes on from."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from instil.run.search.space import Candidate, Space

FILE_NAME = "search.sqlite3"
_SURE = 2
"""So many finished candidates, none slower, have to be ahead at the same step for one to be given up."""
_SKIPPED = "skipped"


class Behind(optuna.pruners.BasePruner):
    """Gives a candidate up where others are ahead that are not slower. A small one behind large ones goes on: it
    may be the best of its speed. Only `rivals` count: those that keep to the limits of this search."""

    def __init__(self, rivals: Collection[Candidate]) -> None:
        self._rivals = rivals

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop `trial` after its last report."""
        step = trial.last_step
        if step is None:
            return False
        own, latency = trial.intermediate_values[step], trial.user_attrs["latency_ms"]
        rivals = [
            each for each in finished(study)
            if each.user_attrs["latency_ms"] <= latency and Candidate(**each.params) in self._rivals
        ]  # fmt: skip
        return sum(each.intermediate_values.get(step, own) < own for each in rivals) >= _SURE


def open_study(file: Path, name: str, seed: int, rivals: Collection[Candidate]) -> optuna.Study:
    """The study called `name` in `file`, new or as it was left; what a killed process was at is to be tried again."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{file}", study_name=name, load_if_exists=True, pruner=Behind(rivals),
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=5),
    )  # fmt: skip
    begun = study.get_trials(deepcopy=False)
    # Another start of the same dice would throw what was thrown before.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(begun), n_startup_trials=5)
    for trial in begun:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ended with a loss of their own."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if _SKIPPED not in trial.user_attrs]


def tried(study: optuna.Study) -> dict[Candidate, FrozenTrial]:
    """Every candidate that was finished or given up, with its trial."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = study.get_trials(deepcopy=False, states=states)
    return {Candidate(**trial.params): trial for trial in trials if _SKIPPED not in trial.user_attrs}


def propose(study: optuna.Study, space: Space, open_to: Collection[Candidate]) -> tuple[optuna.Trial, Candidate]:
    """A new trial of one of the candidates `open_to`: the sampler's choice, or any where it insists on others."""
    choices: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(tuple(values)) for name, values in space.values().items()
    }
    while True:
        trial = study.ask(choices)
        candidate = Candidate(**trial.params)
        if candidate in open_to:
            return trial, candidate
        trial.set_user_attr(_SKIPPED, True)
        known = tried(study).get(candidate)
        if known is not None and known.state == TrialState.COMPLETE:
            study.tell(trial, known.value)
        else:
            study.tell(trial, state=TrialState.PRUNED)
        ordered = sorted(open_to, key=str)
        study.enqueue_trial(asdict(random.Random(trial.number).choice(ordered)))


def seconds_of(study: optuna.Study, search: str) -> float:
    """What the trials of `search` have taken so far."""
    trials = (trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("search") == search)
    return sum(trial.duration.total_seconds() for trial in trials if trial.duration)
