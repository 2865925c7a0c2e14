"""The first sentence of a text, by rule: abbreviations, initials, numbers and names with dots do not end it."""

from __future__ import annotations

import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NEVER_LAST = _set("e.g i.e eg ie cf vs viz mr mrs ms dr prof gen sgt capt sen rep gov rev hon approx incl")
_BEFORE_NUMBERS = _set("no nos fig figs eq vol ch sec pp p ed ca jan feb mar apr jun jul aug sep sept oct nov dec")
_EITHER_WAY = _set("inc ltd co corp llc bros st jr sr al u.s u.k e.u ph.d m.d b.c a.d a.m p.m")
_STARTERS = _set(
    "the a an this that these those it its he she they we you i in on at for from to with by as if when while after "
    "there here and but or so no not all some most many both each one"
)
_OPENING, _CLOSING = "\"'([\u00ab\u2018\u201c", "\"')\\]\u00bb\u2019\u201d"
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
_END = re.compile(
    rf"(?P<mark>[.!?\u2026]+)[{_CLOSING}]*(?=\s|$)"  # Latin and its relatives: a space follows
    r"|[\u3002\uff01\uff1f\uff61]+[\u300d\u300f\uff09\u2019\u201d]*"  # Chinese and Japanese: nothing follows
    r"|[\u0964\u0965\u061f\u06d4]+(?=\s|$)"  # Devanagari, Arabic, Urdu
    r"|\n[ \t]*\n"  # a paragraph
    r"|(?=\n[ \t]*(?:[-*+\u2022]|\d+[.)])[ \t])"  # a list begins
)


def first_sentence(text: str) -> str:
    """The first sentence of `text` on one line; the whole text where no sentence ends."""
    text = text.strip()
    for found in _END.finditer(text):
        if _ends_sentence(text, found):
            return " ".join(text[: found.end()].split())
    return " ".join(text.split())


def _ends_sentence(text: str, found: re.Match[str]) -> bool:
    mark, following = found["mark"], text[found.end() :].split(None, 1)
    if mark is None or not following:
        return True
    if following[0][0].islower() or following[0][0] in ",;:)":
        return False
    line = text[: found.start()].rpartition("\n")[2]
    return mark != "." or not _is_abbreviation(line.split(), following[0])


def _is_abbreviation(line: list[str], following: str) -> bool:
    """Whether the last word of `line`, which a full stop ends, is cut short rather than the end of a sentence."""
    word = line[-1].lstrip(_OPENING).lower() if line else ""
    if word in _NEVER_LAST:
        return True
    if word in _BEFORE_NUMBERS:
        return following[0].isdigit()
    if word.isdigit():
        return len(line) == 1
    return (word in _EITHER_WAY or bool(_INITIALS.fullmatch(word))) and following.lower().strip(
        _OPENING + ","
    ) not in _STARTERS
