"""Outputs to look at: where the student is worst and best, farthest from its teacher, and a fair draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from instil.evaluate.outputs import ScoredOutput

Columns = Mapping[str, Sequence[ScoredOutput]]
"""Outputs by system; every system has the same records in the same order."""


class Example(BaseModel):
    """One record with what each system wrote for it and the ROUGE-L of each, side by side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    source: str
    targets: tuple[str, ...]
    outputs: dict[str, str]
    rougeL: dict[str, float]


class Examples(BaseModel):
    """Selections by the student's ROUGE-L. `behind` and `ahead` go by its gap to the teacher, empty without one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    worst: tuple[Example, ...] = ()
    best: tuple[Example, ...] = ()
    behind: tuple[Example, ...] = ()
    ahead: tuple[Example, ...] = ()
    drawn: tuple[Example, ...] = ()


def select_examples(
    columns: Columns, *, student: str, teacher: str | None = None, count: int = 5, worst: int = 20, seed: int = 0
) -> Examples:
    """`count` records of each kind, `worst` of the worst, one in three records at most; equal scores go by the records'
    order. `drawn` is random, by `seed`."""
    scores = np.array([output.rougeL for output in columns[student]])
    drawn = np.sort(np.random.default_rng(seed).permutation(len(scores))[:count])
    rank = _ranking(columns, count)
    worst = max(count, min(worst, len(scores) // 3))
    behind: tuple[Example, ...] = ()
    ahead: tuple[Example, ...] = ()
    if teacher is not None and teacher != student:
        gap = scores - np.array([output.rougeL for output in columns[teacher]])
        behind, ahead = rank(np.where(gap < 0, gap, np.inf)), rank(np.where(gap > 0, -gap, np.inf))
    return Examples(
        worst=_ranking(columns, worst)(scores),
        best=rank(-scores),
        behind=behind,
        ahead=ahead,
        drawn=tuple(example_at(columns, int(position)) for position in drawn),
    )


def _ranking(columns: Columns, count: int) -> Callable[[np.ndarray], tuple[Example, ...]]:
    def lowest(keys: np.ndarray) -> tuple[Example, ...]:
        order = np.argsort(keys, kind="stable")[:count]
        return tuple(example_at(columns, int(position)) for position in order if np.isfinite(keys[position]))

    return lowest


def example_at(columns: Columns, position: int) -> Example:
    """The record at `position` with every system's output."""
    row = {name: outputs[position] for name, outputs in columns.items()}
    first = next(iter(row.values()))
    return Example(
        id=first.id,
        source=first.source,
        targets=first.targets,
        outputs={name: output.output for name, output in row.items()},
        rougeL={name: output.rougeL for name, output in row.items()},
    )
