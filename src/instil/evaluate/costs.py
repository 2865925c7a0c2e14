"""What systems cost to run: latency in turns at batch 1, and the peak of memory at a batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from instil.evaluate.latency import measure_latency, spread
from instil.evaluate.load import NO_LOAD, Load, LoadPlan, measure_loads
from instil.evaluate.memory import added_memory

if TYPE_CHECKING:
    from instil.core.protocol import Generator


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds for each timed source at batch 1, and for one token of it; the bytes of weights and of generating
    together; and what comes of several batch sizes."""

    milliseconds: tuple[float, ...]
    first_token: tuple[float, ...]
    peak_memory_bytes: int | None
    loads: tuple[Load, ...] = ()


def measure_costs(
    systems: Mapping[str, Generator],
    sources: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    items: int,
    seed: int,
    load: LoadPlan = NO_LOAD,
    done: Callable[[int], object] | None = None,
) -> dict[str, Cost]:
    """Latency over `items` of `sources` drawn by `seed`; memory over the `batch_size` longest of these.

    Memory comes first, one system after the other, so that its measuring does not disturb the clock; it also warms up.
    `load`: what else is measured over these sources. `done` is told how many answers were timed so far, without those
    of one token and of batches. An empty result when `items` is 0.
    """
    if not items or not systems:
        return {}
    drawn = [sources[position] for position in spread(len(sources), items, seed=seed)]
    longest = sorted(drawn, key=len, reverse=True)[:batch_size]
    peaks = {name: _peak(system, longest, max_new_tokens, batch_size) for name, system in systems.items()}
    count = 0

    def after_each() -> None:
        nonlocal count
        count += 1
        if done:
            done(count)

    times = measure_latency(systems, drawn, max_new_tokens=max_new_tokens, after_each=after_each)
    first = measure_latency(systems, drawn, max_new_tokens=1, warm_up=1)
    loads = measure_loads(systems, drawn, load, max_new_tokens=max_new_tokens)
    return {name: Cost(tuple(times[name]), tuple(first[name]), peaks[name], loads[name]) for name in systems}


def _peak(system: Generator, sources: Sequence[str], max_new_tokens: int, batch_size: int) -> int | None:
    system.generate(sources[:1], max_new_tokens=max_new_tokens, batch_size=1)
    added = added_memory(partial(system.generate, sources, max_new_tokens=max_new_tokens, batch_size=batch_size))
    return None if added is None else system.bytes + added
