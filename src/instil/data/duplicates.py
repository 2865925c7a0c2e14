"""Near duplicates: texts whose word 5-grams agree, by Jaccard similarity, with those of an earlier text.

No pair is compared that need not be: of two sets with Jaccard similarity >= t, each has at least t of its elements
in common with the other, so under any one order of all elements their first `size - ceil(t * size) + 1` elements
share one (prefix filtering; Chaudhuri, Ganti and Kaushik 2006; Bayardo, Ma and Srikant 2007). Hash order serves.
Candidates are then compared exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from instil.data import shingles

SHINGLE_WORDS = 5
MOST_CANDIDATES = 200
"""Earlier texts that one text is compared with, those first that share a rare n-gram: bounds the time on texts that
are all made from one template. Beyond it a near duplicate may stay; nothing else is ever dropped."""

Done = Callable[[int], None]


def near_duplicates(texts: Sequence[str], threshold: float, done: Done | None = None) -> set[int]:
    """Indices of the texts that a kept, earlier text equals by Jaccard similarity >= `threshold`.

    The first of its kind stays, so texts that are added at the end change nothing before them. `done` hears how many
    texts are through. Texts without words are never duplicates.
    """
    prefixes = _Prefixes(texts, threshold)

    @lru_cache(maxsize=4 * MOST_CANDIDATES)
    def grams(index: int) -> frozenset[int]:
        return frozenset(shingles.ngrams([texts[index]], SHINGLE_WORDS, whole_when_short=True)[0].tolist())

    dropped: set[int] = set()
    kept_with: dict[int, list[int]] = {}
    for index in range(len(texts)):
        shared = prefixes.shared(index)
        if any(_similar(grams(index), grams(other), threshold) for other in _candidates(shared, kept_with)):
            dropped.add(index)
        else:
            for gram in shared:
                kept_with.setdefault(gram, []).append(index)
        if done and index % shingles.BLOCK_TEXTS == 0:
            done(index)
    return dropped


def _candidates(shared: Sequence[int], kept_with: dict[int, list[int]]) -> list[int]:
    found: dict[int, None] = {}
    for gram in sorted(shared, key=lambda gram: len(kept_with.get(gram, ()))):
        found.update(dict.fromkeys(kept_with.get(gram, ())[:MOST_CANDIDATES]))
        if len(found) >= MOST_CANDIDATES:
            break
    return list(found)[:MOST_CANDIDATES]


def _similar(left: frozenset[int], right: frozenset[int], threshold: float) -> bool:
    if min(len(left), len(right)) < threshold * max(len(left), len(right)):
        return False
    common = len(left & right)
    return common >= threshold * (len(left) + len(right) - common)


class _Prefixes:
    """The prefix n-grams of every text that another text's prefix shares, in hash order."""

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        parts = [
            _prefixes(gram_G, count_D, start, threshold)
            for start, gram_G, count_D in shingles.blocks(texts, SHINGLE_WORDS, whole_when_short=True)
        ]
        text_P = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.int64)
        gram_P = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, np.uint64)
        shared_P = _repeated(gram_P)
        self._gram_S = gram_P[shared_P]
        self._bounds = np.searchsorted(text_P[shared_P], np.arange(len(texts) + 1))

    def shared(self, index: int) -> list[int]:
        values: list[int] = self._gram_S[self._bounds[index] : self._bounds[index + 1]].tolist()
        return values


def _repeated(value_P: shingles.Hashes) -> npt.NDArray[np.bool_]:
    """Which values stand more than once; np.unique would take several times the memory."""
    order = np.argsort(value_P)
    same = value_P[order[1:]] == value_P[order[:-1]]
    repeated = np.zeros(len(value_P), bool)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    return repeated


def _prefixes(
    gram_G: shingles.Hashes, count_D: shingles.Counts, start: int, threshold: float
) -> tuple[npt.NDArray[np.int64], shingles.Hashes]:
    """The smallest hashes of each text, as many as prefix filtering needs: text indices and hashes."""
    text_G = np.repeat(np.arange(len(count_D)), count_D)
    order = np.lexsort((gram_G, text_G))
    gram_G = gram_G[order]
    new_G = np.ones(len(gram_G), bool)
    new_G[1:] = (gram_G[1:] != gram_G[:-1]) | (text_G[1:] != text_G[:-1])
    gram_S, text_S = gram_G[new_G], text_G[new_G]
    size_D = np.bincount(text_S, minlength=len(count_D))
    needed_D = size_D - np.array([math.ceil(threshold * size - 1e-9) for size in size_D.tolist()], np.int64) + 1
    first_D = np.cumsum(size_D) - size_D
    in_prefix = np.arange(len(gram_S)) - first_D[text_S] < needed_D[text_S]
    return text_S[in_prefix] + start, gram_S[in_prefix]
