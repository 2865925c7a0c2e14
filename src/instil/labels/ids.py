"""Ids in fewer bits than ceil(log2 V): the common ones of a shard by a short number, the others in full.

A teacher's likely words are few; that is why the ids of a shard's labels repeat. The shard lists its most common ids
once, as many as make the whole smallest, and each entry then holds one bit that says whether it is one of them, and
either its place in that list or the id itself.

Shape letters: S entries of a stream, E examples, I common ids.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from instil.labels.bits import bits_for, pack_bits, unpack_bits

_MOST_SHORT_BITS = 16
Arrays = Mapping[str, NDArray[np.uint8]]


def common_ids(ids: NDArray[np.uint32], id_bits: int) -> NDArray[np.uint32]:
    """The ids that are worth a short number, the most frequent first; none where a list would not pay for itself."""
    distinct, counts = np.unique(ids, return_counts=True)
    order = np.lexsort((distinct, -counts))
    found = np.concatenate([[0], counts[order].cumsum()])
    best, size = len(ids) * id_bits, 0
    for short_bits in range(_MOST_SHORT_BITS + 1):
        listed = min(1 << short_bits, len(distinct))
        hits = int(found[listed])
        bits = len(ids) + hits * bits_for(listed) + (len(ids) - hits) * id_bits + listed * id_bits
        if bits < best:
            best, size = bits, listed
    return distinct[order[:size]].astype(np.uint32)


def pack_ids(
    name: str, ids: NDArray[np.uint32], common: NDArray[np.uint32], id_bits: int
) -> dict[str, NDArray[np.uint8]]:
    """The packed columns of a stream of ids, by their names."""
    if not len(common):
        return {f"{name}.long": pack_bits(ids, id_bits)}
    order = np.argsort(common, kind="stable")
    place = np.searchsorted(common, ids, sorter=order).clip(max=len(common) - 1)
    hit = common[order[place]] == ids
    return {
        f"{name}.hits": pack_bits(hit, 1),
        f"{name}.short": pack_bits(order[place][hit], bits_for(len(common))),
        f"{name}.long": pack_bits(ids[~hit], id_bits),
    }


class IdStream:
    """Where each example's ids stand in a packed stream."""

    def __init__(self, name: str, arrays: Arrays, common: NDArray[np.uint32], id_bits: int, starts: NDArray[np.int64]):
        """`starts`: first entry of each example and, last, the end; shape `(E + 1,)`."""
        self._name, self._common, self._id_bits, self._starts = name, common, id_bits, starts
        self._hits = np.zeros_like(starts)
        if len(common):
            hit_S = unpack_bits(arrays[f"{name}.hits"], 1, np.arange(int(starts[-1])))
            self._hits = np.concatenate([[0], hit_S.cumsum(dtype=np.int64)])[starts]

    def read(self, arrays: Arrays, examples: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The ids of these examples, in their order, one after the other."""
        starts, hits, name = self._starts, self._hits, self._name
        before = starts - hits
        long = unpack_bits(arrays[f"{name}.long"], self._id_bits, ranges(before[examples], before[examples + 1]))
        if not len(self._common):
            return long
        entries = ranges(starts[examples], starts[examples + 1])
        hit_S = unpack_bits(arrays[f"{name}.hits"], 1, entries).astype(bool)
        short = ranges(hits[examples], hits[examples + 1])
        found = np.empty(len(entries), np.uint32)
        found[hit_S] = self._common[unpack_bits(arrays[f"{name}.short"], bits_for(len(self._common)), short)]
        found[~hit_S] = long
        return found


def ranges(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The whole numbers of all the ranges, one after the other."""
    lengths = ends - starts
    offsets = np.repeat(starts - np.concatenate([[0], lengths.cumsum()[:-1]]), lengths)
    found: NDArray[np.int64] = np.arange(int(lengths.sum())) + offsets
    return found
