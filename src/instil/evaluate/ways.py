"""Ways to come by a student, each taken with several seeds and scored on the same items: how good each is, and whether
one differs from another by more than chance.

Shapes: S seeds, N items, R resamples. An interval draws items and seeds anew (both are samples: of texts, and of
runs); items are drawn alike for all ways, so differences are paired. A p-value is of the students at hand: approximate
randomisation over items, of the mean over seeds (Noreen 1989), corrected for the number of ways (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from instil.evaluate import significance
from instil.evaluate.latency import Latency
from instil.evaluate.significance import Floats, Interval

Scores = NDArray[np.float64]
"""Of one way: shape (S, N), a row a seed."""


class WayResult(BaseModel):
    """One way. Score: ROUGE-L in points. Times in seconds, means over the seeds; `prepare_seconds` is what the teacher
    did beforehand, once. What using it costs is of the first seed's student; `retention` and `speedup` refer to the
    teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seeds: int
    score: Interval
    by_seed: tuple[float, ...]
    difference: Interval | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    train_seconds: float | None = None
    steps: float | None = None
    tokens: float | None = None
    prepare_seconds: float = 0.0
    usd: float | None = None
    parameters: int
    bytes: int
    latency: Latency | None = None
    speedup: Interval | None = None
    retention: Interval | None = None

    @property
    def step_seconds(self) -> float | None:
        """Of one optimizer step, the mean."""
        return self.train_seconds / self.steps if self.train_seconds and self.steps else None


class Ways(BaseModel):
    """All ways over the same `n` items, differences and p-values against the way called `against`. `beside`: models
    that nobody trained here, such as the teacher and those that are only asked. `failed`: ways that could not be
    trained, with the error of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ways: tuple[WayResult, ...]
    beside: tuple[WayResult, ...] = ()
    against: str
    budget: str
    n: int
    signature: str
    remarks: tuple[str, ...] = ()
    failed: dict[str, str] = {}

    @property
    def all(self) -> tuple[WayResult, ...]:
        """The ways, then the models beside them."""
        return (*self.ways, *self.beside)

    @property
    def best(self) -> WayResult:
        """The way with the highest score."""
        return max(self.ways, key=lambda way: way.score.value)

    def __getitem__(self, name: str) -> WayResult:
        """The way called `name`. Raises `KeyError`."""
        return {way.name: way for way in self.ways}[name]


def score_interval(scores_SN: Scores, *, seed: int, resamples: int = significance.RESAMPLES) -> Interval:
    """The mean over seeds and items, with the interval of both."""
    return significance.interval_of(scores_SN.mean(), _means(scores_SN, seed, resamples, "own"))


def difference_interval(
    first_SN: Scores, second_SN: Scores, *, seed: int, resamples: int = significance.RESAMPLES
) -> Interval:
    """mean(first) - mean(second), paired by item; the two may have different numbers of seeds."""
    drawn = _means(first_SN, seed, resamples, "first") - _means(second_SN, seed, resamples, "second")
    return significance.interval_of(first_SN.mean() - second_SN.mean(), drawn)


def _means(scores_SN: Scores, seed: int, resamples: int, stream: str) -> Floats:
    """Means over drawn items, the same for every call with `seed`, and over drawn seeds, another draw a `stream`."""
    means_RS = significance.bootstrap_means(scores_SN.T, seed=seed, resamples=resamples)
    draws = np.random.default_rng([seed, *stream.encode()]).integers(0, len(scores_SN), means_RS.shape)
    return np.take_along_axis(means_RS, draws, axis=1).mean(axis=1)


def compared(scores: Mapping[str, Scores], against: str, *, seed: int) -> dict[str, dict[str, object]]:
    """For each way: its `score`, `by_seed`, and but for `against` its `difference`, `p_value` and `p_corrected`."""
    found: dict[str, dict[str, object]] = {
        name: {
            "score": score_interval(scores_SN, seed=seed),
            "by_seed": tuple(float(mean) for mean in scores_SN.mean(axis=1)),
            "seeds": len(scores_SN),
        }
        for name, scores_SN in scores.items()
    }
    others = [name for name in scores if name != against]
    base_SN = scores[against]
    p_values = {
        name: significance.paired_p_value(scores[name].mean(axis=0), base_SN.mean(axis=0), seed=seed) for name in others
    }
    for name, corrected in significance.holm(p_values).items():
        found[name] |= {
            "difference": difference_interval(scores[name], base_SN, seed=seed),
            "p_value": p_values[name],
            "p_corrected": corrected,
        }
    return found


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None where any is unknown."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
