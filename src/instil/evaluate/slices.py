"""Where a student is worse: quality by what the items are like, the student beside its teacher on the same items."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from instil.evaluate.examples import Columns
from instil.evaluate.outputs import ScoredOutput
from instil.evaluate.significance import Interval, difference_interval, mean_interval
from instil.evaluate.words import unicode_words

PARTS = 4
"""Items are cut into so many parts of about equal size."""
LEAST_ITEMS = 8
"""A part with fewer says nothing."""


class Slice(BaseModel):
    """The `n` items for which `kind` lies within `low` and `high`. ROUGE-L in points; `difference` is the student's
    minus the teacher's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    low: float
    high: float
    n: int
    student: Interval
    teacher: Interval | None = None
    difference: Interval | None = None


def source_length(output: ScoredOutput) -> float:
    """Words of the source."""
    return float(len(unicode_words(output.source)))


def target_length(output: ScoredOutput) -> float:
    """Words of the first reference."""
    return float(len(unicode_words(output.targets[0])))


def novelty(output: ScoredOutput) -> float:
    """Percent of the first reference's words that the source does not have."""
    words = unicode_words(output.targets[0])
    known = set(unicode_words(output.source))
    return 100 * sum(word not in known for word in words) / len(words) if words else 0.0


KINDS: dict[str, Callable[[ScoredOutput], float]] = {
    "words of the source": source_length,
    "words of the reference": target_length,
    "new words in the reference, %": novelty,
}


def slices(columns: Columns, *, student: str, teacher: str | None, seed: int) -> tuple[Slice, ...]:
    """Every kind's parts, from low to high; kinds in which items do not differ, or that have too few, are left out."""
    found: list[Slice] = []
    for kind, measure in KINDS.items():
        values = np.array([measure(output) for output in columns[student]])
        groups = [each for each in _parts(values) if len(each) >= LEAST_ITEMS]
        if len(groups) > 1:
            found += [_slice(kind, values[each], each, columns, student, teacher, seed) for each in groups]
    return tuple(found)


def _parts(values: np.ndarray) -> list[np.ndarray]:
    """Positions by part; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, PARTS + 1)[1:-1]))
    part = np.searchsorted(edges, values, side="right")
    return [np.flatnonzero(part == number) for number in range(len(edges) + 1)]


def _slice(
    kind: str, values: np.ndarray, positions: np.ndarray, columns: Columns, student: str, teacher: str | None, seed: int
) -> Slice:
    own = _scores(columns[student], positions)
    beside = {}
    if teacher is not None and teacher != student:
        theirs = _scores(columns[teacher], positions)
        beside = {
            "teacher": mean_interval(theirs, seed=seed),
            "difference": difference_interval(own, theirs, seed=seed),
        }
    low, high = float(values.min()), float(values.max())
    return Slice(kind=kind, low=low, high=high, n=len(own), student=mean_interval(own, seed=seed), **beside)


def _scores(outputs: Sequence[ScoredOutput], positions: np.ndarray) -> list[float]:
    return [outputs[int(position)].rougeL for position in positions]
