"""Latency, in turns, of systems that sleep; memory of work that allocates a known amount."""

import sys
import time
from collections.abc import Sequence

import numpy as np
import pytest

from instil.core.errors import DataError
from instil.evaluate.costs import measure_costs
from instil.evaluate.latency import latency_of, measure_latency, speedup, spread
from instil.evaluate.memory import added_memory


class Sleeper:
    """Answers after a fixed time; remembers when it was asked."""

    parameters = 0
    bytes = 1000

    def __init__(self, name: str, seconds: float, diary: list[str] | None = None) -> None:
        self.name, self.seconds, self.diary = name, seconds, diary if diary is not None else []

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        self.diary.append(self.name)
        time.sleep(self.seconds)
        return ["x"] * len(sources)


def test_sleeping_systems_are_timed_and_compared() -> None:
    systems = {"slow": Sleeper("slow", 0.02), "fast": Sleeper("fast", 0.005)}
    times = measure_latency(systems, ["a"] * 12, max_new_tokens=1)
    slow, fast = (latency_of(times[name], seed=0) for name in ("slow", "fast"))
    # A sleep is never shorter than asked; how much longer depends on the machine, so only that bound is sharp.
    assert 20 <= slow.p50.value < 200
    assert 5 <= fast.p50.value < slow.p50.value
    assert slow.p50.low <= slow.p50.value <= slow.p50.high
    assert slow.p50.value <= slow.p95.value
    ratio = speedup(times["slow"], times["fast"], seed=0)
    assert ratio is not None
    assert ratio.low > 1


def test_systems_take_turns_and_the_order_rotates() -> None:
    diary: list[str] = []
    systems = {name: Sleeper(name, 0, diary) for name in "abc"}
    seen: list[int] = []
    measure_latency(systems, list("123"), max_new_tokens=1, warm_up=1, after_each=lambda: seen.append(len(diary)))
    assert "".join(diary) == "abc" + "abc" + "bca" + "cab"
    assert len(seen) == 9


def test_latency_without_sources_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="at least one source"):
        measure_latency({"a": Sleeper("a", 0)}, [], max_new_tokens=1)


def test_drawn_items_are_repeatable_and_distinct() -> None:
    assert spread(100, 10, seed=3) == spread(100, 10, seed=3)
    assert len(set(spread(100, 10, seed=3))) == 10
    assert spread(4, 10, seed=3) == [0, 1, 2, 3]


def test_costs_of_systems() -> None:
    told: list[int] = []
    systems = {"a": Sleeper("a", 0), "b": Sleeper("b", 0)}
    costs = measure_costs(
        systems, ["s", "ss", "sss"], max_new_tokens=1, batch_size=2, items=2, seed=0, done=told.append
    )
    assert told == [1, 2, 3, 4]
    assert all(len(cost.milliseconds) == 2 for cost in costs.values())
    assert measure_costs(systems, ["s"], max_new_tokens=1, batch_size=2, items=0, seed=0) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark can be reset on Linux only")
def test_memory_sees_the_peak_and_forgets_what_came_before() -> None:
    def work(megabytes: int) -> None:
        np.ones(megabytes * 1_000_000, np.uint8)

    work(300)
    small, large = added_memory(lambda: work(20)), added_memory(lambda: work(120))
    assert small is not None
    assert large is not None
    assert 15e6 < small < 60e6
    assert 100e6 < large < 200e6
