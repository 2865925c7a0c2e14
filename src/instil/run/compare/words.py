"""What a comparison of ways comes to, in sentences: which is best, what it costs to train, what it saves in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instil.core import units
from instil.run.report.verdict import CHANCE, number, p_words, span

if TYPE_CHECKING:
    from instil.evaluate.ways import WayResult, Ways

_NEAR = 0.03
"""Steps that differ by less than this share are said to take as long."""


def told(ways: Ways) -> list[str]:
    """Does it take longer, and what does it buy? A sentence each; the first is the result."""
    best = ways.best
    base = ways[ways.against]
    sentences = [_best(ways, best), *(_gap(way, base) for way in ways.ways if way is not best and way is not base)]
    longer = _longer(best if best is not base else _second(ways, base), base)
    return [*sentences, *longer, *(_failed(way, error) for way, error in ways.failed.items())]


def _failed(way: str, error: str) -> str:
    return f"“{way}” failed and is left out ({error}); the same command tries it again."


def _second(ways: Ways, base: WayResult) -> WayResult:
    return max((way for way in ways.ways if way is not base), key=lambda way: way.score.value)


def _best(ways: Ways, best: WayResult) -> str:
    found = f"With {ways.budget} of training each, “{best.name}” is best: ROUGE-L {number(best.score.value)}"
    if best.name == ways.against:
        return f"{found} ({span(best.score)}); no other way is above it."
    return f"{found} ({span(best.score)}), {_difference(best, ways.against)}."


def _gap(way: WayResult, base: WayResult) -> str:
    return f"“{way.name}” has {number(way.score.value)}, {_difference(way, base.name)}."


def _difference(way: WayResult, against: str) -> str:
    gap, p = way.difference, way.p_corrected
    assert gap is not None and p is not None  # Every way but the one held against has both.
    side = "above" if gap.value >= 0 else "below"
    sure = "" if p < CHANCE else ", which chance may explain"
    return f"{number(abs(gap.value))} points {side} “{against}” ({span(gap, signed=True)}, {p_words(p)}{sure})"


def _longer(way: WayResult, base: WayResult) -> list[str]:
    """Whether the one takes longer to train than the other, and what was to be done beforehand."""
    ours, theirs = way.step_seconds, base.step_seconds
    sentences = []
    if ours and theirs:
        ratio = ours / theirs
        longer = f"{number(ratio, 2)} times as long as" if abs(ratio - 1) > _NEAR else "as long as"
        sentences.append(
            f"A step of “{way.name}” takes {longer} one of “{base.name}”"
            f" ({units.seconds(ours)} against {units.seconds(theirs)})."
        )
    if way.prepare_seconds >= 1:
        sentences.append(f"Before that the teacher worked {units.seconds(way.prepare_seconds)}, once for all students.")
    if way.speedup and way.retention:
        sentences.append(
            f"In use it keeps {number(100 * way.retention.value)}% of the teacher’s ROUGE-L at"
            f" {number(way.speedup.value, 2)} times its speed."
        )
    return sentences
