"""Break-even as a drawing: what has been spent after so many days, with the teacher and with the student."""

from __future__ import annotations

import math

from instil.core.errors import ConfigError
from instil.plan.breakeven import BreakEven
from instil.run.report.axes import LEFT, across, drawing, frame, path, upwards
from instil.run.report.markup import element

_STYLE = (
    "text{font:12px sans-serif;fill:#333} line{stroke:#ccc} path{fill:none;stroke-width:2.5} .teacher{stroke:#b3541e} "
    ".student{stroke:#1f6f8b} circle{fill:#333}"
)
_BEYOND = 2.0
"""How many times the days to break-even are shown."""
_NEVER_DAYS = 30.0


def break_even_svg(paying: BreakEven | None) -> str:
    """An SVG file's text. Raises `ConfigError` where there is nothing to compare."""
    if paying is None or paying.teacher is None or paying.student is None:
        raise ConfigError("--plot: there is no plan with a served teacher and student to draw")
    days = _BEYOND * paying.days if math.isfinite(paying.days) else _NEVER_DAYS
    teacher, student = paying.teacher.usd_per_day, paying.student.usd_per_day
    x = across([0, days], low=0)
    y = upwards([0, days * teacher, paying.cost + days * student], low=0)
    lines = [
        path([(x(0), y(0)), (x(days), y(days * teacher))], class_="teacher"),
        path([(x(0), y(paying.cost)), (x(days), y(paying.cost + days * student))], class_="student"),
        element("text", "teacher", x=x(days) - 60, y=y(days * teacher) + 16),
        element("text", "distilling + student", x=LEFT + 8, y=y(paying.cost) - 6),
    ]
    told = "never"
    if math.isfinite(paying.days):
        told = f"after {paying.days:.1f} days, {paying.requests:,.0f} requests"
        lines.append(element("circle", cx=x(paying.days), cy=y(paying.days * teacher), r=4))
    ground = frame(x, y, x_label=f"days at {paying.requests_per_day:,.0f} requests a day", y_label="USD spent")
    svg = drawing("break-even", "Break-even", f"Distilling has paid {told}", element("style", _STYLE), ground, lines)
    return str(svg).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1) + "\n"
