"""The report's charts, drawn as inline SVG: learning curves, latency against quality, the spread of scores.

A system is told apart by colour, by its line's dashes, by its mark's shape and by words, so any one of them will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from instil.run.report import axes
from instil.run.report.axes import BOTTOM, LEFT, RIGHT, TOP, Scale, apart, drawing, frame, path
from instil.run.report.markup import Child, Markup, element, joined
from instil.run.report.roles import Role, role_of, spoken

if TYPE_CHECKING:
    from instil.evaluate.results import Comparison
    from instil.evaluate.significance import Interval

Point = tuple[float, float]
Curves = Mapping[str, Sequence[Mapping[str, float | None]]]
_MOST_POINTS = 240
_LINE = 17.0


def mark(role: Role, x: float, y: float, size: float = 5.0) -> Markup:
    """The shape of `role` around (x, y): circle, diamond, square, triangle."""
    kind = f"mark {role}"
    if role == "student":
        return element("circle", cx=x, cy=y, r=size, class_=kind)
    if role == "against":
        return element("rect", x=x - size, y=y - size, width=2 * size, height=2 * size, class_=kind)
    if role == "teacher":
        far = size * 1.4
        return path([(x, y - far), (x + far, y), (x, y + far), (x - far, y), (x, y - far)], class_=kind)
    return path([(x - size, y + size), (x + size, y + size), (x, y - size), (x - size, y + size)], class_=kind)


def learning_curves(comparison: Comparison, curves: Curves, names: Sequence[str], *, key: str) -> Markup | None:
    """Cross-entropy (nats a target token) against minutes of training for the runs `names`; None without numbers.

    Means over a 25th of the run to each side, the single steps behind them; marks are held-out examples.
    """
    runs = {name: (series(curves[name], "hard"), series(curves[name], "validation_loss")) for name in names}
    runs = {name: both for name, both in runs.items() if both[0] or both[1]}
    if not runs:
        return None
    smooth = {name: smoothed(steps) for name, (steps, _) in runs.items()}
    x = axes.across((minute for both in runs.values() for points in both for minute, _ in points), low=0)
    seen = [value for points in smooth.values() for minute, value in points if minute > 0.03 * x.high]
    held_out = [value for _, points in runs.values() for _, value in points]
    y = axes.upwards(seen + held_out or [value for points in smooth.values() for _, value in points])
    place = _placer(x, y)
    shapes: list[Child] = []
    entries: list[tuple[Role, str]] = []
    for name, (steps, checks) in runs.items():
        role = role_of(comparison, name)
        shapes.append(path(map(place, thinned(steps)), class_=f"raw {role}") if steps else None)
        shapes.append(path(map(place, thinned(smooth[name])), class_=f"line {role}") if steps else None)
        shapes.append([mark(role, *place(point), size=3.5) for point in checks])
        end = smooth[name][-1][1] if steps else checks[-1][1]
        entries.append((role, f"{spoken(name)}, ends at {end:.2f}"))
    inside = element("g", shapes, clip_path=f"url(#{key}-clip)")
    ground = frame(x, y, x_label="minutes of training", y_label="cross-entropy, nats a token")
    title = f"Learning curves of {_listed(runs)}"
    return drawing(key, title, "; ".join(words for _, words in entries), _clip(key), ground, inside, legend(entries))


def series(history: Sequence[Mapping[str, float | None]], field: str) -> list[Point]:
    """(minutes, value) of `field` in the order of time, without steps that lack it; empty where all are 0."""
    points = []
    for report in history:
        seconds, value = report.get("elapsed_s"), report.get(field)
        if seconds is not None and value is not None and math.isfinite(value):
            points.append((seconds / 60, value))
    return sorted(points) if any(value for _, value in points) else []


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Each point with the mean of the values around it, a 25th of the run to each side, less near the ends."""
    reach = len(points) // 25
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    means = []
    for index, (minute, _) in enumerate(points):
        first, last = max(0, index - reach), min(len(points), index + reach + 1)
        means.append((minute, (sums[last] - sums[first]) / (last - first)))
    return means


def thinned(points: Sequence[Point]) -> list[Point]:
    """Every n-th point and the last, as many as a screen can show."""
    every = math.ceil(len(points) / _MOST_POINTS) or 1
    return [point for index, point in enumerate(points) if index % every == 0 or index == len(points) - 1]


@dataclass(frozen=True, slots=True)
class Dot:
    """One system's place in a chart of quality against a cost, both with their intervals."""

    name: str
    role: Role
    cost: Interval
    quality: Interval


def latency_against_quality(comparison: Comparison, *, key: str) -> Markup | None:
    """ROUGE-L against the median milliseconds for one source, both with their 95% intervals; None if none was timed.

    Systems without parameters take next to no time: they are level lines to be above of.
    """
    dots = [
        Dot(one.name, role_of(comparison, one.name), one.latency.p50, one.rougeL)
        for one in comparison.systems
        if one.latency is not None and one.parameters
    ]
    levels = {one.name: one.rougeL.value for one in comparison.systems if one.is_baseline}
    return against_quality(dots, levels, key=key, title="Latency against quality", cost=LATENCY, unit="ms")


LATENCY = "median time for one text, ms"


def against_quality(
    dots: Sequence[Dot], levels: Mapping[str, float], *, key: str, title: str, cost: str, unit: str
) -> Markup | None:
    """ROUGE-L against a cost, a dot a system, with 95% intervals; `levels` are lines across. None without dots."""
    if not dots:
        return None
    x = axes.across((dot.cost.high for dot in dots), low=0)
    y = axes.upwards([end for dot in dots for end in (dot.quality.low, dot.quality.high)] + list(levels.values()))
    words = [f"{spoken(dot.name)}: ROUGE-L {dot.quality.value:.1f} at {dot.cost.value:.3g} {unit}" for dot in dots]
    return drawing(
        key,
        title,
        "; ".join(words + [f"{spoken(name)}: ROUGE-L {value:.1f}" for name, value in levels.items()]),
        frame(x, y, x_label=cost, y_label="ROUGE-L"),
        _levels(levels, y),
        [_crossed(dot, x, y) for dot in dots],
        _point_labels(dots, x, y),
    )


def _levels(levels: Mapping[str, float], y: Scale) -> Markup:
    places = [y(value) for value in levels.values()]
    lines = [element("line", x1=LEFT, x2=RIGHT, y1=at, y2=at, class_="level") for at in places]
    heights = apart([at - 6 for at in places], _LINE, TOP + 10, BOTTOM - 4)
    words = [
        element("text", f"{spoken(name)}, {value:.1f}", x=LEFT + 6, y=at)
        for (name, value), at in zip(levels.items(), heights, strict=True)
    ]
    return joined(lines, element("g", words, class_="quiet"))


def _crossed(dot: Dot, x: Scale, y: Scale) -> Markup:
    across, up = dot.cost, dot.quality
    at_x, at_y = x(across.value), y(up.value)
    bars = (
        element("line", x1=at_x, x2=at_x, y1=y(up.low), y2=y(up.high), class_=f"error {dot.role}"),
        element("line", x1=x(across.low), x2=x(across.high), y1=at_y, y2=at_y, class_=f"error {dot.role}"),
    )
    return joined(bars, mark(dot.role, at_x, at_y, size=6))


def _point_labels(dots: Sequence[Dot], x: Scale, y: Scale) -> Markup:
    """Beside the points, towards the chart's middle, no two on each other."""
    words = []
    for right in (False, True):
        here = [dot for dot in dots if (x(dot.cost.value) > (LEFT + RIGHT) / 2) == right]
        heights = apart([y(dot.quality.value) - 7 for dot in here], _LINE, TOP + 10, BOTTOM - 6)
        side = -11 if right else 11
        for dot, height in zip(here, heights, strict=True):
            at = x(dot.cost.value) + side
            words.append(element("text", spoken(dot.name), x=at, y=height, text_anchor="end" if right else "start"))
    return element("g", words, class_="labels")


def score_spread(comparison: Comparison, *, key: str) -> Markup | None:
    """How many of the items have which ROUGE-L: the student filled, its teacher a line over it; None without both."""
    if comparison.student is None or comparison.teacher is None:
        return None
    pair = [comparison[comparison.student], comparison[comparison.teacher]]
    shares = [[100 * count / max(1, one.n) for count in one.rougeL_histogram] for one in pair]
    x, y = Scale(0, 100, LEFT, RIGHT), axes.upwards([share for both in shares for share in both], low=0)
    place = _placer(x, y)
    outlines = [[place(corner) for corner in _stairs(share)] for share in shares]
    entries: list[tuple[Role, str]] = [
        (role_of(comparison, one.name), f"{spoken(one.name)}, mean {one.rougeL.value:.1f}") for one in pair
    ]
    floor = [(RIGHT, BOTTOM), (LEFT, BOTTOM)]
    return drawing(
        key,
        "Spread of ROUGE-L over the test items",
        "; ".join(words for _, words in entries),
        frame(x, y, x_label="ROUGE-L of one item", y_label="share of the items, %"),
        path([*outlines[0], *floor], class_="area student"),
        path(outlines[0], class_="line student"),
        path(outlines[1], class_="line teacher"),
        legend(entries, marks=False),
    )


def _stairs(heights: Sequence[float]) -> list[Point]:
    width = 100 / len(heights)
    return [(edge * width, height) for k, height in enumerate(heights) for edge in (k, k + 1)]


def whisker(low: float, value: float, high: float, *, scale: tuple[float, float], role: Role) -> Markup:
    """A value in its interval as a small drawing for a table's cell; `scale` is shared by all rows."""
    x = Scale(*scale, 4, 96)
    line = element("line", x1=x(low), x2=x(high), y1=6, y2=6, class_=f"error {role}")
    middle = mark(role, x(value), 6, size=3.2)
    return element("svg", line, middle, viewBox="0 0 100 12", class_="whisker", aria_hidden="true")


def _placer(x: Scale, y: Scale) -> Callable[[Point], Point]:
    return lambda point: (x(point[0]), y(point[1]))


def _clip(key: str) -> Markup:
    room = element("rect", x=LEFT, y=TOP - 6, width=RIGHT - LEFT + 6, height=BOTTOM - TOP + 6)
    return element("defs", element("clipPath", room, id=f"{key}-clip"))


def legend(entries: Sequence[tuple[Role, str]], *, marks: bool = True, low: bool = False) -> Markup:
    """In the upper right, which falling curves and skewed histograms leave empty; `low`, in the lower right."""
    rows: list[Child] = []
    step = _LINE + 3
    top = BOTTOM - 8 - step * (len(entries) - 1) if low else TOP + 8
    for index, (role, words) in enumerate(entries):
        y = top + index * step
        rows.append(path([(RIGHT - 28, y), (RIGHT, y)], class_=f"line {role}"))
        rows.append(mark(role, RIGHT - 14, y, size=3.5) if marks else None)
        rows.append(element("text", words, x=RIGHT - 36, y=y, dy="0.34em", text_anchor="end"))
    return element("g", rows, class_="legend")


def _listed(names: Mapping[str, object]) -> str:
    return " and ".join(spoken(name) for name in names)
