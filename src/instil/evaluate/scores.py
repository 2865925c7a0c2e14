"""Metrics of several systems over the same examples, with intervals, differences and tests.

All metrics of all systems are resampled by the same draws, so each difference is paired. Shapes: N examples, S
statistics, R resamples or rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from instil.evaluate.metric import Counted, Score
from instil.evaluate.significance import (
    RESAMPLES,
    ROUNDS,
    Floats,
    bootstrap_means,
    holm,
    interval_of,
    swapped_sums,
)

Systems = Mapping[str, Sequence[Counted]]
"""Each system's statistics, of the same metrics over the same examples in the same order."""


@dataclass(frozen=True, slots=True)
class _Resampled:
    counted: Counted
    values_R: Floats


def score_systems(
    systems: Systems, *, against: str | None = None, seed: int, resamples: int = RESAMPLES, rounds: int = ROUNDS
) -> dict[str, dict[str, Score]]:
    """Scores by system and metric. A metric that no example of a system says anything about is left out there.

    With `against`, every other system is held against that one, and its p-values in one metric are corrected for how
    many systems are (Holm 1979).
    """
    resampled = {name: _resample(counted, seed, resamples) for name, counted in systems.items() if counted}
    found = {name: {key: _score(one) for key, one in ours.items()} for name, ours in resampled.items()}
    if against not in resampled:
        return found
    p_values = {
        name: dict(_p_values(systems[name], systems[against], seed, rounds)) for name in found if name != against
    }
    for metric, theirs in resampled[against].items():
        p_of = {name: values[metric] for name, values in p_values.items() if metric in values and metric in found[name]}
        for name, adjusted in holm(p_of).items():
            found[name][metric] = found[name][metric].model_copy(
                update={
                    "difference": _difference(resampled[name][metric], theirs),
                    "p_value": p_of[name],
                    "p_adjusted": adjusted,
                }
            )
    return found


def _resample(counted: Sequence[Counted], seed: int, resamples: int) -> dict[str, _Resampled]:
    """The metrics that have a value, each with its resampled values."""
    items = len(counted[0].statistics_NS)
    sums_RS = bootstrap_means(np.hstack([one.statistics_NS for one in counted]), seed=seed, resamples=resamples) * items
    parts = zip(counted, _split(sums_RS, counted), strict=True)
    found = {one.measure.name: _Resampled(one, one.measure.value(part_RS)) for one, part_RS in parts}
    return {name: one for name, one in found.items() if np.isfinite(one.counted.value)}


def _split(sums_RS: Floats, counted: Sequence[Counted]) -> list[Floats]:
    """The columns of each metric."""
    return np.split(sums_RS, np.cumsum([one.statistics_NS.shape[1] for one in counted])[:-1], axis=1)


def _score(one: _Resampled) -> Score:
    measure = one.counted.measure
    found = interval_of(one.counted.value, one.values_R[np.isfinite(one.values_R)])
    n = int(np.isfinite(one.counted.each).sum())
    how = {"unit": measure.unit, "better": measure.better, "signature": measure.signature}
    return Score.model_validate(found.model_dump() | how | {"n": n})


def _difference(ours: _Resampled, theirs: _Resampled) -> object:
    values_R = ours.values_R - theirs.values_R
    return interval_of(ours.counted.value - theirs.counted.value, values_R[np.isfinite(values_R)])


def _p_values(
    ours: Sequence[Counted], theirs: Sequence[Counted], seed: int, rounds: int
) -> Iterator[tuple[str, float]]:
    """p of "both are as good" by metric: each example's outputs are swapped between the systems at random."""
    known = {one.measure.name: one for one in theirs}
    ours = [one for one in ours if one.measure.name in known]
    first_NS = np.hstack([one.statistics_NS for one in ours])
    second_NS = np.hstack([known[one.measure.name].statistics_NS for one in ours])
    both_S = (first_NS + second_NS).sum(axis=0)
    swapped_RS = np.concatenate(list(swapped_sums(first_NS - second_NS, rounds, seed)))
    sums = zip(ours, _split((both_S + swapped_RS) / 2, ours), _split((both_S - swapped_RS) / 2, ours), strict=True)
    for one, first_RS, second_RS in sums:
        seen = abs(one.value - known[one.measure.name].value)
        gaps_R = abs(one.measure.value(first_RS) - one.measure.value(second_RS))
        if np.isfinite(seen):
            # As in `paired_p_value`, rounding must not make a tie look less extreme.
            gaps_R = gaps_R[np.isfinite(gaps_R)]
            yield one.measure.name, (int((gaps_R >= seen - 1e-9).sum()) + 1) / (len(gaps_R) + 1)
