"""How one text differs from another, word by word, as HTML."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from html import escape

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def word_diff(before: str, after: str) -> str:
    """`after` with what it adds to `before` in `<ins>` and what it lacks in `<del>`, escaped."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    parts = []
    for kind, a, b, c, d in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        gone, come = (escape("".join(words)) for words in (old[a:b], new[c:d]))
        if kind == "equal":
            parts.append(come)
            continue
        if gone.strip():
            parts.append(f"<del>{gone}</del>")
        if come.strip():
            parts.append(f"<ins>{come}</ins>")
        elif come:
            parts.append(come)
    return "".join(parts)


def share_alike(before: str, after: str) -> float:
    """How much of the two texts is the same, from 0 to 1; two empty ones are the same."""
    return SequenceMatcher(a=before.split(), b=after.split(), autojunk=False).ratio()
