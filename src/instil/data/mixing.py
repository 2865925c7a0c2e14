"""How often each of several tasks has its turn in an epoch, and which of its records then.

Temperature-scaled mixing (Raffel et al. 2019, arXiv 1910.10683, section 3.5.2): a task of n records has the rate
min(n, most)^(1/T), as a share of all. An epoch is as long as all records together; within a task each record comes as
often as any other, epoch after epoch. All follows from seed and epoch, so a resumed run takes the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """`members`: the indices of each task's examples; `counts`: how many of them an epoch takes."""

    members: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]

    def epoch(self, seed: int, epoch: int) -> list[int]:
        """The indices of one epoch, task by task, each task going on where its last epoch ended."""
        return list(
            chain.from_iterable(
                _turns(members, epoch * count, count, f"{seed}/{number}")
                for number, (members, count) in enumerate(zip(self.members, self.counts, strict=True))
            )
        )


def mixture_of(tasks: Sequence[str], *, temperature: float, most: int | None = None) -> Mixture | None:
    """The mixture of examples of these `tasks`; None where each example comes once an epoch anyway."""
    names = list(dict.fromkeys(tasks))
    if len(names) < 2 or (temperature == 1 and most is None):
        return None
    members = tuple(tuple(index for index, task in enumerate(tasks) if task == name) for name in names)
    rates = [min(len(each), most or len(each)) ** (1 / temperature) for each in members]
    return Mixture(members=members, counts=tuple(max(1, round(len(tasks) * rate / sum(rates))) for rate in rates))


def _turns(members: Sequence[int], start: int, count: int, seed: str) -> list[int]:
    """`count` of `members` from the `start`-th turn on, in rounds that are shuffled one by one."""
    rounds = range(start // len(members), (start + count - 1) // len(members) + 1)
    order = list(
        chain.from_iterable(random.Random(f"{seed}/{number}").sample(members, len(members)) for number in rounds)
    )
    return order[start % len(members) :][:count]
