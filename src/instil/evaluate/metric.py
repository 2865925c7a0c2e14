"""A metric: statistics of each example whose sums give the score, so that intervals and tests resample sums alone.

This holds for means of sentence scores, for shares (sums over sums) and for corpus scores such as BLEU alike.

Shapes: N examples, S statistics, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from instil.evaluate.outputs import ScoredOutput
from instil.evaluate.significance import Floats, Interval

Better = Literal["higher", "lower", "neither"]
Value = Callable[[Floats], Floats]
"""Scores, shape (R,), of sums of statistics, shape (R, S); NaN where they define none."""


class Score(Interval):
    """What one system has in one metric, over the `n` examples that say anything about it.

    `difference` is over the system that all are held against, by paired bootstrap; `p_value` is that of no difference
    by approximate randomisation, `p_adjusted` the same after Holm's correction for all systems so compared.
    """

    n: int
    unit: str
    better: Better
    signature: str
    difference: Interval | None = None
    p_value: float | None = None
    p_adjusted: float | None = None


def share(sums_RS: Floats) -> Floats:
    """The first sum over the second, shape (R,): a mean where each example's second statistic is 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums_RS[:, 1] > 0, sums_RS[:, 0] / sums_RS[:, 1], np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How statistics become a score. `signature`: all that another number must share to be compared with this one."""

    name: str
    unit: str
    better: Better
    signature: str
    value: Value = share


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(Measure):
    """A measure of texts: `statistics` of one output, as many for each."""

    statistics: Callable[[ScoredOutput], Sequence[float]]

    def count(self, outputs: Sequence[ScoredOutput]) -> Counted:
        """The statistics of all `outputs`."""
        return Counted(self, np.array([self.statistics(output) for output in outputs], dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Counted:
    """Statistics of shape (N, S), and what they are statistics of."""

    measure: Measure
    statistics_NS: Floats

    @property
    def each(self) -> Floats:
        """The score of each example alone, shape (N,); NaN for one that says nothing."""
        return self.measure.value(self.statistics_NS)

    @property
    def value(self) -> float:
        """The score over all examples; NaN where none says anything."""
        return float(self.measure.value(self.statistics_NS.sum(axis=0, keepdims=True))[0])
