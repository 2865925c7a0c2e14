"""In which order records are taken, and whether the first of them stand for the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from instil.data.clean import source_key
from instil.data.records import Record

_ENOUGH = 50
"""Records, of the first as of the others, below which shares say nothing."""
_LOOKED_AT = 2_000
"""Records whose words are counted, spread over all."""
_APART = 0.3
"""By how much a word's shares must differ. Of 50 records drawn at random it is more than four standard errors."""


def mixed(records: Sequence[Record]) -> list[Record]:
    """In an order that depends on each one's source alone, so that records added later leave the order of the others.

    The first half of a source's key chooses its split, the second its place.
    """
    return sorted(records, key=lambda record: source_key(record.source)[8:])


def one_sided(first: Sequence[Record], others: Sequence[Record]) -> str:
    """The word of the sources that tells `first` from `others`, with both shares; empty where none does."""
    if min(len(first), len(others)) < _ENOUGH:
        return ""
    here, there = _shares(first), _shares(others)
    word = max(sorted({*here, *there}), key=lambda word: abs(here.get(word, 0.0) - there.get(word, 0.0)))
    own, other = here.get(word, 0.0), there.get(word, 0.0)
    return f"{word!r} is in {own:.0%} of them and in {other:.0%} of the others" if abs(own - other) > _APART else ""


def _shares(records: Sequence[Record]) -> dict[str, float]:
    """The share of the sources that hold each word, among at most `_LOOKED_AT` of them."""
    some = records[:: math.ceil(len(records) / _LOOKED_AT)]
    counts = Counter(word for record in some for word in set(record.source.split()))
    return {word: count / len(some) for word, count in counts.items()}
