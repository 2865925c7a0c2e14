"""A chart's ground: a linear scale, round ticks, axes with units, and the SVG around it all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from instil.run.report.markup import Child, Markup, element

WIDTH, HEIGHT = 480.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 464.0, 16.0, 262.0
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Pixels and words of about five ticks, 1, 2, 2.5 or 5 times a power of ten apart."""
        length = self.high - self.low
        power = math.floor(math.log10(length / _TICKS))
        factor = min((1, 2, 2.5, 5, 10), key=lambda factor: abs(length / (factor * 10.0**power) - _TICKS))
        step, digits = factor * 10.0**power, max(0, -power + (factor == 2.5) - (factor == 10))
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [(self(k * step), f"{k * step:,.{digits}f}".replace("-", "−")) for k in range(first, last + 1)]


def across(values: Iterable[float], *, low: float | None = None) -> Scale:
    """A scale for x over `values` with a little air; `low` fixes its beginning."""
    return _around(list(values), low, LEFT, RIGHT)


def upwards(values: Iterable[float], *, low: float | None = None) -> Scale:
    """A scale for y over `values` with a little air; `low` fixes its beginning."""
    return _around(list(values), low, BOTTOM, TOP)


def _around(values: list[float], low: float | None, start: float, end: float) -> Scale:
    bottom, top = (min(values) if low is None else low), max(values)
    air = (top - bottom) * 0.06 or abs(top) * 0.1 or 1.0
    return Scale(bottom - air if low is None else low, top + air, start, end)


def frame(x: Scale | None, y: Scale, *, x_label: str, y_label: str) -> Markup:
    """Grid lines, tick words and both axes' names. Without `x` its ticks are left to the caller."""
    lines, words = [], []
    for at, text in y.ticks():
        lines.append(element("line", x1=LEFT, x2=RIGHT, y1=at, y2=at))
        words.append(element("text", text, x=LEFT - 8, y=at, dy="0.34em", text_anchor="end"))
    for at, text in x.ticks() if x else ():
        lines.append(element("line", x1=at, x2=at, y1=BOTTOM, y2=BOTTOM + 5))
        words.append(element("text", text, x=at, y=BOTTOM + 21, text_anchor="middle"))
    middle = (TOP + BOTTOM) / 2
    names = (
        element("text", x_label, x=(LEFT + RIGHT) / 2, y=BOTTOM + 46, text_anchor="middle"),
        element("text", y_label, x=0, y=0, text_anchor="middle", transform=f"translate(13 {middle:g}) rotate(-90)"),
    )
    base = element("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="base")
    return element("g", lines, base, words, names, class_="axes")


def drawing(key: str, title: str, description: str, *children: Child) -> Markup:
    """The SVG, with a title and a description for those who cannot see it. `key` must be unique in the page."""
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", description, id=f"{key}-description"),
        children,
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_labelledby=f"{key}-title {key}-description",
        class_="chart",
    )


def path(points: Iterable[tuple[float, float]], **attributes: str | float | bool | None) -> Markup:
    """A line through `points`, in pixels."""
    steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element("path", d=f"M{steps}", **attributes)


def apart(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near `wanted` (in their order) that keep `gap` between each other, within [low, high] where it fits."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = [0.0] * len(wanted)
    before = low - gap
    for index in order:
        before = placed[index] = max(wanted[index], before + gap)
    after = high + gap
    for index in reversed(order):
        after = placed[index] = min(placed[index], after - gap)
    return placed
