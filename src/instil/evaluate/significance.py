"""How sure a number is: percentile bootstrap intervals and a paired test, over scores an item.

Efron 1979 (bootstrap); Koehn 2004 (paired resampling in evaluation); Noreen 1989 and Riezler & Maxwell 2005
(approximate randomisation); Holm 1979 (several comparisons). All are repeatable by their seed.

Shapes: N items, M columns, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

Floats = NDArray[np.float64]

RESAMPLES = 2000
ROUNDS = 10_000
LEVEL = 0.95
_BLOCK_CELLS = 2_000_000
_TIE = 1e-9


class Interval(BaseModel):
    """A measured value with its 95% interval, in the value's own unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float


def bootstrap_means(values_NM: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Means of the columns over `resamples` draws of N items with replacement, shape (R, M).

    All columns see the same draws, so differences and ratios of columns are paired.
    """
    values = _finite_matrix(values_NM)
    blocks = [counts_BN @ values / len(values) for counts_BN in _draws(len(values), resamples, seed)]
    return np.concatenate(blocks)


def _draws(items: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each item is drawn, in blocks of resamples that fit in a few megabytes."""
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // items)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        cells = generator.integers(0, items, (rows, items)) + np.arange(rows)[:, None] * items
        yield np.bincount(cells.ravel(), minlength=rows * items).reshape(rows, items).astype(np.float64)


def _finite_matrix(values: ArrayLike) -> Floats:
    matrix = np.asarray(values, dtype=np.float64)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if not matrix.size or not np.isfinite(matrix).all():
        raise ValueError("an interval needs at least one item, and finite values only")
    return matrix


def interval_of(value: float, resampled_R: Floats) -> Interval:
    """`value` with the central 95% of `resampled_R` around it."""
    low, high = np.quantile(resampled_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value=float(value), low=float(low), high=float(high))


def mean_interval(values_N: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The mean of `values_N` and its percentile bootstrap interval. Raises `ValueError` without values."""
    values = _finite_matrix(values_N)
    return interval_of(values.mean(), bootstrap_means(values, seed=seed, resamples=resamples)[:, 0])


def difference_interval(first_N: ArrayLike, second_N: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """mean(first) - mean(second) over the same items, with its paired bootstrap interval."""
    first, second = _pair(first_N, second_N)
    return mean_interval(first - second, seed=seed, resamples=resamples)


def ratio_interval(
    numerator_N: ArrayLike, denominator_N: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval | None:
    """mean(numerator) / mean(denominator) over the same items (retention), with its paired bootstrap interval.

    None where the denominator's mean is 0. Draws in which it is 0 are left out; they occur with very few items only.
    """
    numerator, denominator = _pair(numerator_N, denominator_N)
    means_R2 = bootstrap_means(np.stack([numerator, denominator], axis=1), seed=seed, resamples=resamples)
    return _ratio(numerator.mean(), denominator.mean(), means_R2[:, 0], means_R2[:, 1])


def median_ratio_interval(
    numerator_N: ArrayLike, denominator_N: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval | None:
    """median(numerator) / median(denominator) over the same items (speed-up), with its paired bootstrap interval."""
    numerator, denominator = _pair(numerator_N, denominator_N)
    drawn_RN = np.random.default_rng(seed).integers(0, len(numerator), (resamples, len(numerator)))
    above, below = np.median(numerator[drawn_RN], axis=1), np.median(denominator[drawn_RN], axis=1)
    return _ratio(float(np.median(numerator)), float(np.median(denominator)), above, below)


def quantile_interval(values_N: ArrayLike, share: float, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The quantile `share` (0.5 is the median) of `values_N` with its percentile bootstrap interval."""
    values = _finite_matrix(values_N)[:, 0]
    drawn_RN = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    return interval_of(float(np.quantile(values, share)), np.quantile(values[drawn_RN], share, axis=1))


def _ratio(above: float, below: float, above_R: Floats, below_R: Floats) -> Interval | None:
    defined = below_R > 0
    if below <= 0 or not defined.any():
        return None
    return interval_of(above / below, above_R[defined] / below_R[defined])


def _pair(first_N: ArrayLike, second_N: ArrayLike) -> tuple[Floats, Floats]:
    first, second = _finite_matrix(first_N)[:, 0], _finite_matrix(second_N)[:, 0]
    if len(first) != len(second):
        raise ValueError(f"a paired comparison needs the same items on both sides, not {len(first)} and {len(second)}")
    return first, second


def paired_p_value(first_N: ArrayLike, second_N: ArrayLike, *, seed: int, rounds: int = ROUNDS) -> float:
    """Two-sided p of "both systems are as good" by approximate randomisation: each item's pair is swapped at random.

    The smallest possible value is 1 / (rounds + 1); equal systems, and a single item, give 1.
    """
    first, second = _pair(first_N, second_N)
    difference = first - second
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    seen = abs(difference.sum()) - _TIE
    extreme = sum(int((abs(sums_B) >= seen).sum()) for sums_B in swapped_sums(difference, rounds, seed))
    return (extreme + 1) / (rounds + 1)


def swapped_sums(difference_N: Floats, rounds: int, seed: int) -> Iterator[Floats]:
    """Sums over the items of `difference_N`, shape (N,) or (N, S), after the sign of each item is drawn: `rounds` of
    them, in blocks."""
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // len(difference_N))
    for start in range(0, rounds, block):
        shape = (min(block, rounds - start), len(difference_N))
        signs_BN = generator.integers(0, 2, shape, dtype=np.int8).astype(np.float64) * 2 - 1
        yield signs_BN @ difference_N


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """`p_values` by name, corrected for their number: the chance of any false alarm among them stays below the level.

    Holm 1979: the smallest is multiplied by their number, the next by one less, and none may fall below one before.
    """
    found: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        found[name] = least
    return found
