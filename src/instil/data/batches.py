"""Batches of similar length within a token budget: deterministic by seed, resumable at any position."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from instil.core.errors import ConfigError, DataError
from instil.data.mixing import Mixture

_POOL_BATCHES = 32
"""Examples of so many batches are sorted by length together: long enough for even batches, short enough to mix."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where the reader stands: `batch` counts within `epoch`, which has `of` batches (0 before the first is read)."""

    epoch: int = 0
    batch: int = 0
    of: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """From easy to hard (Bengio et al. 2009, "Curriculum learning"): epoch e has the first `shares[e]` of the examples
    in `order`, easiest first, and every epoch beyond those has them all (the baby steps of Spitkovsky et al. 2010).
    Within an epoch they are dealt as ever, so that place and batch still follow from seed and position alone."""

    order: Sequence[int]
    shares: Sequence[float]

    def of(self, epoch: int) -> Sequence[int]:
        """The examples of `epoch`, at least one."""
        share = self.shares[epoch] if epoch < len(self.shares) else 1.0
        return self.order[: max(1, math.ceil(share * len(self.order)))]


def epoch_batches(
    lengths: Sequence[int],
    *,
    tokens: int,
    seed: int,
    epoch: int,
    most: int | None = None,
    mixture: Mixture | None = None,
) -> list[list[int]]:
    """Indices of one epoch's batches: longest length x number of examples <= `tokens`, each example exactly once, or
    as often as `mixture` says.

    `most` is the largest number of examples in a batch; None for no such limit.

    Examples are shuffled by (seed, epoch), sorted by length within pools, cut into batches, and the batches shuffled.
    """
    if lengths and max(lengths) > tokens:
        raise ConfigError(
            f"batch_tokens is {tokens} but the longest example has {max(lengths)} tokens;"
            " raise batch_tokens or lower limits.source"
        )
    rng = random.Random(f"{seed}/{epoch}")
    order = mixture.epoch(seed, epoch) if mixture else list(range(len(lengths)))
    rng.shuffle(order)
    mean = max(1.0, sum(lengths) / max(len(lengths), 1))
    pool = max(1, round(tokens / mean * _POOL_BATCHES))
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        batches.extend(_cut(sorted(order[start : start + pool], key=lengths.__getitem__), lengths, tokens, most))
    rng.shuffle(batches)
    return batches


def _cut(ordered: list[int], lengths: Sequence[int], tokens: int, most: int | None) -> Iterator[list[int]]:
    """Runs of `ordered` (by rising length), each as long as the budget allows."""
    batch: list[int] = []
    for index in ordered:
        if batch and (lengths[index] * (len(batch) + 1) > tokens or len(batch) == most):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def endless_batches(
    lengths: Sequence[int],
    *,
    tokens: int,
    seed: int,
    start: Position,
    most: int | None = None,
    mixture: Mixture | None = None,
    curriculum: Curriculum | None = None,
) -> Iterator[tuple[Position, list[int]]]:
    """Batches of epoch after epoch from `start` on, each with the position *after* it; of the examples that a
    `curriculum` has in the epoch, or as often as a `mixture` says: one of the two.

    Epochs differ a little in their number of batches. Raises `DataError` without examples.
    """
    if not lengths:
        raise DataError("there are no examples to train on; check the train split")
    epoch, first = start.epoch, start.batch
    while True:
        chosen = curriculum.of(epoch) if curriculum else range(len(lengths))
        seen = [lengths[index] for index in chosen]
        batches = epoch_batches(seen, tokens=tokens, seed=seed, epoch=epoch, most=most, mixture=mixture)
        for number in range(first, len(batches)):
            yield Position(epoch, number + 1, len(batches)), [chosen[index] for index in batches[number]]
        epoch, first = epoch + 1, 0
