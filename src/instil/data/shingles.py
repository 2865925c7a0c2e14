"""Word n-grams as 64-bit hashes, for many texts at once. The same text has the same hashes everywhere.

Shape letters: W words of all texts together, G n-grams of all texts together, D texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from zlib import crc32

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

BLOCK_TEXTS = 512
# Scripts that put no spaces between words count one character as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_ASCII_WORD = re.compile("[a-z0-9_]+")  # the same words where a text is ASCII, found twice as fast


def ngrams(texts: Sequence[str], n: int, *, whole_when_short: bool) -> tuple[Hashes, Counts]:
    """Hashes of all word `n`-grams of `texts`, shape (G,), text by text, and their number in each, shape (D,).

    Case and punctuation do not count. A text of fewer than `n` words has one hash, that of the whole text, when
    `whole_when_short`, else none; a text without words has none.
    """
    words = [(_ASCII_WORD if text.isascii() else _WORD).findall(text.lower()) for text in texts]
    length_D = np.fromiter(map(len, words), np.int64, len(words))
    flat = list(chain.from_iterable(words))
    code = {word: crc32(word.encode()) for word in set(flat)}
    word_W = _mixed(np.fromiter(map(code.__getitem__, flat), np.uint64, len(flat)))
    if not whole_when_short:
        return _rolled(word_W, length_D, n)
    return _with_short(word_W, length_D, n)


def blocks(texts: Sequence[str], n: int, *, whole_when_short: bool) -> Iterator[tuple[int, Hashes, Counts]]:
    """`ngrams` of a few hundred texts at a time, with the index of the first of them, so that memory stays small."""
    for start in range(0, len(texts), BLOCK_TEXTS):
        yield start, *ngrams(texts[start : start + BLOCK_TEXTS], n, whole_when_short=whole_when_short)


def _mixed(value: Hashes) -> Hashes:
    """Splitmix64 (Steele, Lea and Flood 2014): spreads every bit of `value` over the whole word."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _rolled(word_W: Hashes, length_D: Counts, n: int) -> tuple[Hashes, Counts]:
    """Hashes of the windows of `n` words that lie within one text."""
    total = max(len(word_W) - n + 1, 0)
    gram_G = np.zeros(total, np.uint64)
    for place in range(n):
        gram_G = _mixed(gram_G + word_W[place : place + total])
    left_W = np.repeat(np.cumsum(length_D), length_D) - np.arange(len(word_W))
    return gram_G[left_W[:total] >= n], np.maximum(length_D - n + 1, 0)


def _with_short(word_W: Hashes, length_D: Counts, n: int) -> tuple[Hashes, Counts]:
    """As `_rolled`, where texts shorter than `n` words are filled up with a word that no text has."""
    short_D = (length_D > 0) & (length_D < n)
    missing_D = np.where(short_D, n - length_D, 0)
    at = np.repeat(np.cumsum(length_D), missing_D)
    return _rolled(np.insert(word_W, at, np.uint64(0)), length_D + missing_D, n)
