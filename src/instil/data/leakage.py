"""Leakage: training sources that stand, whole or in large part, among the held-out sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from instil.data import shingles
from instil.data.duplicates import Done


class HeldOut:
    """The held-out sources, ready to be searched for overlap."""

    def __init__(self, sources: Sequence[str], n: int) -> None:
        """`n`: words in a sequence that counts as overlap."""
        self._n = n
        self._exact = {" ".join(source.split()) for source in sources}
        parts = [gram_G for _, gram_G, _ in shingles.blocks(sources, n, whole_when_short=False)]
        self._gram_H = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
        self._gram_H.sort()  # np.unique would take several times the memory

    def exact(self, sources: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of `sources` stand among the held-out ones as they are, white space apart; shape (D,)."""
        return np.fromiter((" ".join(source.split()) in self._exact for source in sources), bool, len(sources))

    def share(self, sources: Sequence[str], done: Done | None = None) -> npt.NDArray[np.float64]:
        """The share of each source's word n-grams that the held-out sources hold, 0 to 1, shape (D,).

        0 for sources of fewer than n words.
        """
        share_D = np.zeros(len(sources))
        for start, gram_G, count_D in shingles.blocks(sources, self._n, whole_when_short=False):
            found_G = _in_sorted(gram_G, self._gram_H)
            text_G = np.repeat(np.arange(len(count_D)), count_D)
            hits_D = np.bincount(text_G, weights=found_G, minlength=len(count_D))
            share_D[start : start + len(count_D)] = hits_D / np.maximum(count_D, 1)
            if done:
                done(start + len(count_D))
        return share_D


def _in_sorted(value_G: shingles.Hashes, sorted_H: shingles.Hashes) -> npt.NDArray[np.bool_]:
    if len(sorted_H) == 0:
        return np.zeros(len(value_G), bool)
    at = np.minimum(np.searchsorted(sorted_H, value_G), len(sorted_H) - 1)
    found: npt.NDArray[np.bool_] = sorted_H[at] == value_G
    return found
