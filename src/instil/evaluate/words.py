"""Words of any script, lower case, without marks: what is compared where `rouge-score` would see only a-z and 0-9."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ASCII_WORDS = re.compile(r"[a-z0-9]+")
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def unicode_words(text: str) -> list[str]:
    """Lower-cased runs of letters, their marks and digits; scripts without spaces give one word a character."""
    text = unicodedata.normalize("NFKC", text).lower()
    if text.isascii():
        return _ASCII_WORDS.findall(text)
    return "".join(map(_spaced, text)).split()


@lru_cache(maxsize=1 << 14)
def is_unspaced(character: str) -> bool:
    """Whether `character` belongs to a script that puts no spaces between words."""
    return unicodedata.name(character, "").startswith(_UNSPACED)


@lru_cache(maxsize=1 << 14)
def _spaced(character: str) -> str:
    if unicodedata.category(character)[0] not in "LMN":
        return " "
    return f" {character} " if is_unspaced(character) else character
