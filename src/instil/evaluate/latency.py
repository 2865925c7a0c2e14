"""Time for one request, measured in turns: every system answers the same input before the next input comes.

So a noisy neighbour on the machine slows all systems alike, and the ratio of two systems is taken over the same
moments. The order rotates with each input, so that no system always runs on another's warm or cold caches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from instil.core.errors import DataError
from instil.evaluate.significance import Interval, median_ratio_interval, quantile_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    from instil.core.protocol import Generator

WARM_UP = 2


class Latency(BaseModel):
    """Milliseconds for one source at batch 1: the raw times in the order of the inputs, and what they come to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50: Interval
    p95: Interval
    p99: Interval | None = None
    first_token: Interval | None = Field(default=None, description="the median time of an answer of one token")
    milliseconds: tuple[float, ...]


def measure_latency(
    systems: Mapping[str, Generator],
    sources: Sequence[str],
    *,
    max_new_tokens: int,
    warm_up: int = WARM_UP,
    after_each: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of each system for each of `sources`, at batch 1, after `warm_up` untimed inputs each.

    `after_each` is called, outside the timed part, after every timed answer. Raises `DataError` without sources.
    """
    if not sources:
        raise DataError("latency needs at least one source; ask for latency_items of 1 or more")
    for system in systems.values():
        for turn in range(warm_up):
            _milliseconds(system, sources[turn % len(sources)], max_new_tokens)
    times: dict[str, list[float]] = {name: [] for name in systems}
    names = list(systems)
    for turn, source in enumerate(sources):
        shift = turn % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            times[name].append(_milliseconds(systems[name], source, max_new_tokens))
            if after_each:
                after_each()
    return times


def _milliseconds(system: Generator, source: str, max_new_tokens: int) -> float:
    start = time.perf_counter()
    system.generate([source], max_new_tokens=max_new_tokens, batch_size=1)
    return (time.perf_counter() - start) * 1000


def latency_of(milliseconds: Sequence[float], *, first_token: Sequence[float] = (), seed: int) -> Latency:
    """The median and the 95th and 99th percentile of `milliseconds`, and the median of `first_token`, each with its
    bootstrap interval. Of fewer than 100 answers the 99th percentile is hardly more than the slowest."""
    p50, p95, p99 = (quantile_interval(milliseconds, share, seed=seed) for share in (0.5, 0.95, 0.99))
    first = quantile_interval(first_token, 0.5, seed=seed) if first_token else None
    return Latency(p50=p50, p95=p95, p99=p99, first_token=first, milliseconds=tuple(milliseconds))


def speedup(slow: Sequence[float], fast: Sequence[float], *, seed: int) -> Interval | None:
    """How many times faster `fast` is at the median, over the same inputs, with its paired bootstrap interval."""
    return median_ratio_interval(slow, fast, seed=seed)


def spread(count: int, wanted: int, *, seed: int) -> list[int]:
    """`wanted` positions out of `count`, drawn by `seed` without repetition, ascending; all where there are fewer."""
    return sorted(np.random.default_rng(seed).permutation(count)[:wanted].tolist())
