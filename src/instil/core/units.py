"""Numbers as people read them: seconds, bytes, counts."""

from __future__ import annotations

import math


def seconds(value: float) -> str:
    """`value` seconds: "850 ms", "12 s", "3 min 20 s", "2 h 05 min"; "for ever" for more than any number."""
    if math.isinf(value):
        return "for ever"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(count: float) -> str:
    """`count` bytes in decimal units: "4.9 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def count(number: float) -> str:
    """A large number in short form: "134.5M", "49k", "900"."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= factor:
            return f"{number / factor:.1f}".removesuffix(".0") + unit
    return f"{number:.0f}"
