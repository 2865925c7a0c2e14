"""What an output does with its source: copies it, goes beyond it, or says numbers and names that it does not have."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from instil.evaluate.metric import Better, Metric
from instil.evaluate.outputs import ScoredOutput
from instil.evaluate.words import unicode_words

RUN = 4
"""So many words in a row that stand in the source as well are a copy."""

_NUMBER = re.compile(r"\d+(?:[.,\u066b\u066c'\u2019\u00a0\u202f]\d+)*")
_THOUSANDS = re.compile(
    r"(\d{1,3}(?P<mark>[,.'\u066c\u2019\u00a0\u202f])\d{3}(?:(?P=mark)\d{3})*)(?:(?!(?P=mark))[.,\u066b](\d+))?"
)
_WORD = re.compile(r"[^\W\d_](?:[\w'\u2019&+-]*\w)?", re.UNICODE)
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\u2026]\s+|\n\s*|[\"\u201c\u201e(\u00ab]\s*)$")


def copy_rate() -> Metric:
    """The share of an output's words that stand in a run of at least `RUN` words of its source."""
    return _metric("copy_rate", "neither", f"words:unicode|run:{RUN}", _copied)


def novel_ngrams(n: int) -> Metric:
    """The share of an output's n-grams of words that its source does not have (See et al. 2017, arXiv 1704.04368)."""

    def statistics(output: ScoredOutput) -> tuple[float, float]:
        known = set(ngrams(unicode_words(output.source), n))
        found = ngrams(unicode_words(output.output), n)
        return 100.0 * sum(gram not in known for gram in found), float(len(found))

    return _metric(f"novel_{n}grams", "neither", "words:unicode", statistics)


def unsupported_numbers() -> Metric:
    """The share of the numbers in outputs that their sources do not have; 1,000.0 and 1000 are the same one."""

    def statistics(output: ScoredOutput) -> tuple[float, float]:
        known, found = set(numbers(output.source)), numbers(output.output)
        return 100.0 * sum(number not in known for number in found), float(len(found))

    return _metric("unsupported_numbers", "lower", "numbers:digits", statistics)


def unsupported_names() -> Metric:
    """The share of the names in outputs of which their sources have no trace. A name is a word with a capital that no
    sentence begins with, or with one inside; so nothing is found in scripts without capitals."""

    def statistics(output: ScoredOutput) -> tuple[float, float]:
        known, found = _spaced(output.source), names(output.output)
        return 100.0 * sum(_spaced(name) not in known for name in found), float(len(found))

    return _metric("unsupported_names", "lower", "names:capitals", statistics)


def _metric(name: str, better: Better, rule: str, statistics: Callable[[ScoredOutput], tuple[float, float]]) -> Metric:
    return Metric(name=name, unit="%", better=better, signature=f"{name}|of:source|{rule}", statistics=statistics)


def _copied(output: ScoredOutput) -> tuple[float, float]:
    known = set(ngrams(unicode_words(output.source), RUN))
    words = unicode_words(output.output)
    inside: set[int] = set()
    for start, gram in enumerate(ngrams(words, RUN)):
        if gram in known:
            inside.update(range(start, start + RUN))
    return 100.0 * len(inside), float(len(words))


def _spaced(text: str) -> str:
    return f" {' '.join(unicode_words(text))} "


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words."""
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def numbers(text: str) -> list[str]:
    """The numbers in `text`, each in one way of writing: without marks between thousands, and zeros at the end.

    Digits of any script count. A dot or comma before three digits, as in 1.000, is taken for a mark of thousands.
    """
    digits = ("".join(str(unicodedata.decimal(c, c)) for c in match) for match in _NUMBER.findall(text))
    return [_canonical(each) for each in digits]


def _canonical(digits: str) -> str:
    if grouped := _THOUSANDS.fullmatch(digits):
        whole, decimals = re.sub(r"\D", "", grouped[1]), grouped[3] or ""
    else:
        whole, *parts = re.split(r"\D", digits)
        if len(parts) > 1:
            return digits  # A version or a date: nothing to take away.
        decimals = "".join(parts)
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")


def names(text: str) -> list[str]:
    """The words of `text` that look like names."""
    return [match[0] for match in _WORD.finditer(text) if _is_name(match, text)]


def _is_name(match: re.Match[str], text: str) -> bool:
    word = match[0]
    if any(letter.isupper() for letter in word[1:]):
        return len(word) > 1
    return len(word) > 1 and word[0].isupper() and not _SENTENCE_START.search(text[: match.start()])
