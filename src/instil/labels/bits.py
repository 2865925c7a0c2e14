"""Whole numbers of a few bits each, packed without gaps: vectorised, with random access.

Number i of width w fills the bits i*w to (i+1)*w of the bytes, the lowest bit first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDEST = 24
_GUARD = 4
"""Bytes behind the last number, so that reading four at a time never leaves the array."""
_PACKED_AT_ONCE = 1 << 20


def bits_for(values: int) -> int:
    """Bits of a field that tells `values` different values apart: ceil(log2(values)); none for a single one."""
    return max(values - 1, 0).bit_length()


def pack_bits(values: ArrayLike, width: int) -> NDArray[np.uint8]:
    """The bytes of `values`, whole numbers from 0 to 2^width - 1, shape `(n,)`. Raises `ValueError` for one outside."""
    flat = np.ascontiguousarray(values, dtype=np.uint32).ravel()
    if not 0 <= width <= WIDEST:
        raise ValueError(f"width is {width}; 0 to {WIDEST} bits can be packed")
    if flat.size and int(flat.max()) >> width:
        raise ValueError(f"{int(flat.max())} does not fit into {width} bits")
    # Blocks of a multiple of eight numbers end on whole bytes.
    blocks = [_packed(flat[start : start + _PACKED_AT_ONCE], width) for start in range(0, flat.size, _PACKED_AT_ONCE)]
    return np.concatenate([*blocks, np.zeros(_GUARD, np.uint8)])


def _packed(flat: NDArray[np.uint32], width: int) -> NDArray[np.uint8]:
    bits = (flat[:, None] >> np.arange(width, dtype=np.uint32)) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little")


def bytes_for(count: int, width: int) -> int:
    """Length of what `pack_bits` makes of `count` numbers."""
    return -(-count * width // 8) + _GUARD


def unpack_bits(packed: NDArray[np.uint8], width: int, index: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The numbers at the places `index`, shape `(n,)`, of what `pack_bits` made at the same `width`."""
    if width == 0:
        return np.zeros(index.shape, np.uint32)
    bit = index * width
    byte = bit >> 3
    word = packed[byte].astype(np.uint32)
    for further in range(1, (width + 14) // 8):
        word |= packed[byte + further].astype(np.uint32) << np.uint32(8 * further)
    found: NDArray[np.uint32] = (word >> (bit & 7).astype(np.uint32)) & np.uint32((1 << width) - 1)
    return found
