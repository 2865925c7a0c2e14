"""Batches: every example once an epoch, within the budget, by seed, resumable anywhere, of even length but mixed."""

from __future__ import annotations

import math
import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instil.core.errors import ConfigError, DataError
from instil.data.batches import Curriculum, Position, endless_batches, epoch_batches

LENGTHS = random.Random(0).choices(range(5, 61), k=900)
some_lengths = st.lists(st.integers(1, 50), max_size=80)


@settings(deadline=None, derandomize=True)
@given(
    lengths=some_lengths, spare=st.integers(0, 200), seed=st.integers(0, 99), epoch=st.integers(0, 5), data=st.data()
)
def test_every_example_once_within_the_budget(
    lengths: list[int], spare: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    tokens = max(lengths, default=0) + spare + 1
    most = data.draw(st.none() | st.integers(1, 9))
    batches = epoch_batches(lengths, tokens=tokens, seed=seed, epoch=epoch, most=most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batch for batch in batches)
    assert all(max(lengths[index] for index in batch) * len(batch) <= tokens for batch in batches)
    assert most is None or all(len(batch) <= most for batch in batches)
    assert batches == epoch_batches(lengths, tokens=tokens, seed=seed, epoch=epoch, most=most)


def test_a_longest_example_that_fills_the_budget_is_a_batch() -> None:
    assert sorted(map(sorted, epoch_batches([10, 10], tokens=10, seed=0, epoch=0))) == [[0], [1]]


def test_an_example_over_the_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_tokens is 59 but the longest example has 60 tokens"):
        epoch_batches(LENGTHS, tokens=59, seed=0, epoch=0)


def test_epochs_and_seeds_differ() -> None:
    orders = [epoch_batches(LENGTHS, tokens=512, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    # Not only their order: other examples meet in a batch.
    assert {frozenset(batch) for batch in orders[0]} != {frozenset(batch) for batch in orders[1]}


def test_little_padding() -> None:
    batches = epoch_batches(LENGTHS, tokens=512, seed=0, epoch=0)
    padded = sum(max(LENGTHS[index] for index in batch) * len(batch) for batch in batches)
    assert sum(LENGTHS) / padded > 0.9


def test_pools_are_mixed() -> None:
    """Long and short batches alternate at random; the order of the file shows nowhere."""
    rising = sorted(LENGTHS)
    batches = epoch_batches(rising, tokens=256, seed=0, epoch=0)
    longest = [max(rising[index] for index in batch) for batch in batches]
    ranks = [sum(other < one for other in longest) for one in longest]
    middle = (len(ranks) - 1) / 2
    drift = sum((place - middle) * (rank - middle) for place, rank in enumerate(ranks))
    spread = sum((place - middle) ** 2 for place in range(len(ranks)))
    assert abs(drift / spread) < 0.3
    # With a corpus larger than one pool, a batch has examples from all over it.
    many = LENGTHS * 8
    large = [batch for batch in epoch_batches(many, tokens=512, seed=0, epoch=0) if len(batch) > 5]
    assert sum(max(batch) - min(batch) > len(many) / 4 for batch in large) > 0.9 * len(large)


@pytest.mark.parametrize("most", [None, 3])
def test_reading_goes_on_from_any_position(most: int | None) -> None:
    lengths = LENGTHS[:60]
    options = {"tokens": 120, "seed": 3, "most": most}
    whole = list(islice(endless_batches(lengths, start=Position(), **options), 70))
    assert {place.epoch for place, _ in whole} >= {0, 1}
    for number, (place, _) in enumerate(whole[:-1]):
        assert list(islice(endless_batches(lengths, start=place, **options), 1)) == [whole[number + 1]]
    middle = len(whole) // 2
    rest = list(islice(endless_batches(lengths, start=whole[middle][0], **options), len(whole) - middle - 1))
    assert rest == whole[middle + 1 :]


def test_positions_count_their_epochs_batches() -> None:
    """Epochs are cut into slightly different numbers of batches; each position knows its own epoch's number."""
    reader = endless_batches(LENGTHS, tokens=128, seed=0, start=Position())
    seen: dict[int, list[Position]] = {}
    for place, _ in reader:
        if place.epoch == 6:
            break
        seen.setdefault(place.epoch, []).append(place)
    counts = {epoch: len(places) for epoch, places in seen.items()}
    assert len(set(counts.values())) > 1
    for epoch, places in seen.items():
        assert [place.batch for place in places] == list(range(1, counts[epoch] + 1))
        assert {place.of for place in places} == {counts[epoch]}


def test_no_examples_are_refused_instead_of_read_forever() -> None:
    assert epoch_batches([], tokens=9, seed=0, epoch=0) == []
    with pytest.raises(DataError, match="no examples to train on"):
        next(endless_batches([], tokens=9, seed=0, start=Position()))


@settings(deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60), seed=st.integers(0, 9), data=st.data())
def test_a_curriculum_deals_the_easiest_first_and_then_all(lengths: list[int], seed: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(lengths))))
    shares = sorted(data.draw(st.lists(st.floats(0.01, 1), max_size=3)))
    curriculum = Curriculum(order=order, shares=shares)
    options = {"tokens": 60, "seed": seed, "curriculum": curriculum}
    seen: dict[int, list[int]] = {}
    whole = []
    for place, batch in endless_batches(lengths, start=Position(), **options):
        if place.epoch > len(shares):
            break
        seen.setdefault(place.epoch, []).extend(batch)
        whole.append((place, batch))
    for epoch, share in enumerate([*shares, 1.0]):
        wanted = order[: max(1, math.ceil(share * len(lengths)))]
        assert sorted(seen[epoch]) == sorted(wanted)
    for number, (place, _) in enumerate(whole[:-1]):
        assert next(endless_batches(lengths, start=place, **options)) == whole[number + 1]
