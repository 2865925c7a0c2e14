"""Schedules: where they start and end, that they stay between, and that the loop follows them and resumes on them."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instil.core.config import Config, parse
from instil.core.errors import ConfigError
from instil.objectives.schedules import Schedule

SHAPES = st.sampled_from(["linear", "cosine", "steps"])
NUMBERS = st.floats(0, 1)


@given(NUMBERS, NUMBERS, SHAPES, st.floats(0.01, 1), st.integers(1, 9), NUMBERS)
def test_a_schedule_stays_between_its_ends(
    start: float, end: float, shape: str, until: float, parts: int, progress: float
) -> None:
    schedule = Schedule(start=start, end=end, shape=shape, until=until, parts=parts)
    assert schedule.at(0) == pytest.approx(start, abs=1e-6)
    low, high = sorted((start, end))
    assert low - 1e-6 <= schedule.at(progress) <= high + 1e-6
    if parts > 1 or shape != "steps":
        assert schedule.at(1) == schedule.at(until) == pytest.approx(end, abs=1e-6)


@given(NUMBERS, NUMBERS, SHAPES)
def test_a_schedule_moves_one_way(start: float, end: float, shape: str) -> None:
    values = [Schedule(start=start, end=end, shape=shape).at(step / 50) for step in range(51)]
    steps = [(b - a) * math.copysign(1, end - start) for a, b in itertools.pairwise(values)]
    assert min(steps) >= -1e-6


def test_shapes_at_known_places() -> None:
    assert Schedule(start=1, end=0, shape="linear").at(0.25) == 0.75
    assert Schedule(start=1, end=0, shape="cosine").at(0.5) == pytest.approx(0.5)
    assert Schedule(start=1, end=0, shape="cosine").at(0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    stairs = Schedule(start=1, end=0, shape="steps", parts=3)
    assert [stairs.at(place) for place in (0, 0.3, 0.34, 0.66, 0.67, 1)] == [1, 1, 0.5, 0.5, 0, 0]
    assert Schedule(start=1, end=0, until=0.5).at(0.25) == 0.5


class Holder(Config):
    """Stands for a recipe's section."""

    alpha: Schedule


def test_a_number_is_a_schedule_that_never_changes() -> None:
    held = parse(Holder, {"alpha": 0.3})
    assert held.alpha == Schedule.constant(0.3) and held.alpha.at(0.9) == 0.3
    assert held.model_dump(mode="json") == {"alpha": 0.3}
    assert held.alpha.values == (0.3,) and str(held.alpha) == "0.3"
    assert parse(Holder, {"alpha": "1e-3"}).alpha == Schedule.constant(0.001), "as YAML reads it"


def test_a_schedule_is_written_out_and_read_again() -> None:
    held = parse(Holder, {"alpha": {"start": 4, "end": 1, "shape": "steps", "parts": 3}})
    assert parse(Holder, held.model_dump(mode="json")) == held
    assert held.alpha.values == (4, 2.5, 1) and Schedule(start=4, end=1, shape="steps").values == (4, 3, 2, 1)
    assert str(held.alpha) == "4 to 1 (steps)"
    assert Schedule(start=1, end=0).values is None


@pytest.mark.parametrize(
    ("value", "words"),
    [("high", "give a number, or a schedule"), ({"start": 1, "ende": 2}, "did you mean 'end'"), (True, "number")],
)
def test_what_is_neither_is_refused(value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(Holder, {"alpha": value})
