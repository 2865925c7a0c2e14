"""The report's charts of what hides behind means: quality by kind of item, and the spread of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from instil.run.report import axes
from instil.run.report.axes import BOTTOM, LEFT, RIGHT, TOP, Scale, drawing, frame, path
from instil.run.report.charts import LATENCY, legend, mark
from instil.run.report.markup import Markup, element
from instil.run.report.roles import Role, role_of, spoken

if TYPE_CHECKING:
    from instil.evaluate.results import Comparison
    from instil.evaluate.significance import Interval
    from instil.evaluate.slices import Slice

_APART = 9.0
"""Pixels from a part's middle to the student's and the teacher's mark."""
_ROOM = 0.3
"""Above the marks, as a share of their height, for the legend."""


def by_slice(parts: Sequence[Slice], *, key: str) -> Markup | None:
    """ROUGE-L of student and teacher in each part of one kind, with 95% intervals; None without parts."""
    if not parts:
        return None
    seen = [interval for part in parts for interval in (part.student, part.teacher) if interval]
    ends = [end for interval in seen for end in (interval.low, interval.high)]
    y = axes.upwards([*ends, max(ends) + _ROOM * (max(ends) - min(ends))])
    x = Scale(-0.5, len(parts) - 0.5, LEFT, RIGHT)
    drawn = [_bars(x(number), part, y) for number, part in enumerate(parts)]
    names = [
        element("text", _range(part), x=x(number), y=BOTTOM + 21, text_anchor="middle")
        for number, part in enumerate(parts)
    ]
    entries: list[tuple[Role, str]] = [("student", "student")]
    if parts[0].teacher:
        entries.append(("teacher", "teacher"))
    words = "; ".join(f"{_range(part)}: {part.student.value:.1f} of {part.n} items" for part in parts)
    ground = frame(None, y, x_label=parts[0].kind, y_label="ROUGE-L")
    labels = element("g", names, class_="axes")
    return drawing(key, f"ROUGE-L by {parts[0].kind}", words, ground, labels, drawn, legend(entries))


def _range(part: Slice) -> str:
    low, high = f"{part.low:.0f}", f"{part.high:.0f}"
    return low if low == high else f"{low} to {high}"


def _bars(middle: float, part: Slice, y: Scale) -> list[Markup]:
    drawn = _bar(middle - (_APART if part.teacher else 0), part.student, "student", y)
    return drawn + (_bar(middle + _APART, part.teacher, "teacher", y) if part.teacher else [])


def _bar(at: float, interval: Interval, role: Role, y: Scale) -> list[Markup]:
    line = element("line", x1=at, x2=at, y1=y(interval.low), y2=y(interval.high), class_=f"error {role}")
    return [line, mark(role, at, y(interval.value))]


def latency_spread(comparison: Comparison, *, key: str) -> Markup | None:
    """The share of texts answered within so many milliseconds, a staircase a model; None if none was timed."""
    timed = [one for one in comparison.systems if one.latency and one.parameters]
    if not timed:
        return None
    times = {one.name: sorted(one.latency.milliseconds) for one in timed if one.latency}
    x = axes.across((values[-1] for values in times.values()), low=0)
    y = Scale(0, 100, BOTTOM, TOP)
    lines, entries = [], list[tuple[Role, str]]()
    for name, values in times.items():
        role = role_of(comparison, name)
        lines.append(path(_stairs(values, x, y), class_=f"line {role}"))
        entries.append((role, f"{spoken(name)}, half within {comparison[name].latency_ms_p50:.0f} ms"))
    ground = frame(x, y, x_label=LATENCY.removeprefix("median "), y_label="texts answered, %")
    words = "; ".join(said for _, said in entries)
    return drawing(key, "Spread of latency", words, ground, lines, legend(entries, marks=False, low=True))


def _stairs(values: Sequence[float], x: Scale, y: Scale) -> list[tuple[float, float]]:
    places = [(x(0), y(0))]
    for number, value in enumerate(values, 1):
        places += [(x(value), places[-1][1]), (x(value), y(100 * number / len(values)))]
    return places
