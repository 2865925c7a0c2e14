"""What a search found: each rated candidate, those that none beats in both time and loss, and their picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from instil.run.report.axes import across, drawing, frame, path, upwards
from instil.run.report.markup import element
from instil.run.search.space import Candidate

_STYLE = (
    "text{font:12px sans-serif;fill:#333} line{stroke:#ccc} path{fill:none;stroke:#1f6f8b;stroke-width:2} "
    "circle{fill:#999} .front{fill:#1f6f8b} .chosen{fill:none;stroke:#b3541e;stroke-width:2.5}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """A candidate with its median milliseconds a text at batch 1, the teacher's in the same turns, its loss (nats a
    token, after recovery), and its weights by arithmetic."""

    candidate: Candidate
    latency_ms: float
    teacher_ms: float
    loss: float
    weights: Mapping[str, float]

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        measured = {"latency_ms": self.latency_ms, "speedup": self.teacher_ms / self.latency_ms, "loss": self.loss}
        return {**asdict(self.candidate), **self.weights, **measured}


def front_of(rated: Sequence[Rated]) -> list[Rated]:
    """Those that no other beats in time without losing in loss, the fastest first (Pareto front)."""
    found: list[Rated] = []
    for each in sorted(rated, key=lambda one: (one.latency_ms, one.loss)):
        if not found or each.loss < found[-1].loss:
            found.append(each)
    return found


def front_svg(rated: Sequence[Rated], chosen: Rated) -> str:
    """An SVG file's text: loss against time, the front joined, the chosen one ringed."""
    front = front_of(rated)
    x = across((each.latency_ms for each in (*rated, chosen)), low=0)
    y = upwards(each.loss for each in (*rated, chosen))
    dots = [
        element("circle", cx=x(each.latency_ms), cy=y(each.loss), r=4, class_="front" if each in front else None)
        for each in rated
    ]
    ring = element("circle", cx=x(chosen.latency_ms), cy=y(chosen.loss), r=8, class_="chosen")
    line = path([(x(each.latency_ms), y(each.loss)) for each in front])
    ground = frame(x, y, x_label="median time for one text, ms", y_label="loss after recovery, nats a token")
    told = f"{len(rated)} students, {len(front)} on the front; chosen: {chosen.candidate}"
    svg = drawing("search", "Time against loss", told, element("style", _STYLE), ground, line, dots, ring)
    return str(svg).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1) + "\n"
