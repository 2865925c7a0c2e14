"""What a comparison comes to, in sentences and key figures that say a loss as plainly as a gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from instil.core import units
from instil.run.report.roles import spoken

if TYPE_CHECKING:
    from instil.evaluate.results import Comparison, SystemResult
    from instil.evaluate.significance import Interval

Tone = Literal["gained", "lost", "within chance"]
CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Figure:
    """One number to show large: its value, what it counts, its interval or other evidence, and its tone."""

    value: str
    label: str
    evidence: str
    tone: Tone


def number(value: float, digits: int = 1, *, signed: bool = False) -> str:
    """`value` with a true minus sign; `signed` puts a plus before what is above 0."""
    value = round(value, digits) + 0.0  # no minus before a zero
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


def span(interval: Interval, *, times: float = 1, digits: int = 1, signed: bool = False) -> str:
    """An interval's ends: "32.0 to 34.2"; `times` is 100 for percent."""
    ends = (number(end * times, digits, signed=signed) for end in (interval.low, interval.high))
    return " to ".join(ends)


def p_words(p: float) -> str:
    """ "p = 0.031", "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.3f}"


def ratio_tone(interval: Interval) -> Tone:
    """Whether a ratio's interval lies above 1, below it, or around it."""
    return "gained" if interval.low > 1 else "lost" if interval.high < 1 else "within chance"


def difference_tone(one: SystemResult) -> Tone:
    """Whether the system is above the one it is held against by more than chance: paired test and interval agree."""
    gap = one.difference
    if gap is None or one.p_value is None or one.p_value >= CHANCE or gap.low <= 0 <= gap.high:
        return "within chance"
    return "gained" if gap.value > 0 else "lost"


def headline(comparison: Comparison, *, cost: bool = True) -> list[str]:
    """The result in one sentence, then what qualifies it, a sentence each; `cost`: also what it saves."""
    if comparison.student is None:
        return [f"{len(comparison.systems)} systems on {comparison.n:,} test items; none is named the student."]
    student = comparison[comparison.student]
    sentences = (
        _kept(comparison, student, cost),
        _against(comparison, student),
        _above_baselines(comparison, student),
    )
    return [sentence for sentence in sentences if sentence]


def _kept(comparison: Comparison, student: SystemResult, cost: bool) -> str:
    if comparison.teacher is None or student.retention is None:
        return f"The student reaches a ROUGE-L of {number(student.rougeL.value)} ({span(student.rougeL)})."
    teacher, kept = comparison[comparison.teacher], student.retention
    verb = "exceeds its teacher: it has" if kept.low > 1 else "keeps"
    parts = [
        f"The student {verb} {number(100 * kept.value)}% ({span(kept, times=100)}%) of the teacher’s ROUGE-L",
        *([_speed(student.speedup), _size(student, teacher)] if cost else []),
    ]
    return f"{_enumerated([part for part in parts if part])}."


def _enumerated(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _speed(speedup: Interval | None) -> str:
    if speedup is None:
        return ""
    factor = f"{number(speedup.value, 2)} times ({span(speedup, digits=2)})"
    tone = ratio_tone(speedup)
    if tone == "gained":
        return f"answers {factor} as fast"
    return f"is slower, {factor} the teacher’s speed" if tone == "lost" else f"is no faster beyond chance, {factor}"


def _size(student: SystemResult, teacher: SystemResult) -> str:
    if not teacher.parameters:
        return ""
    return f"has {100 * student.parameters / teacher.parameters:.0f}% of its parameters"


def _against(comparison: Comparison, student: SystemResult) -> str:
    if comparison.against is None or student.difference is None or student.p_value is None:
        return ""
    other, gap = f"“{spoken(comparison.against)}”", student.difference
    sure = f"difference {span(gap, signed=True)}, {p_words(student.p_value)}"
    evidence = f"{number(abs(gap.value))} points of ROUGE-L ({sure})"
    paid, harmed, unknown = _WHETHER_THE_TEACHER_PAID if "without" in comparison.against else ("", "", "")
    tone = difference_tone(student)
    if tone == "gained":
        return f"It is better than {other} by {evidence}{paid}."
    if tone == "lost":
        return f"It is worse than {other} by {evidence}{harmed}."
    side = "above" if gap.value >= 0 else "below"
    return f"It is {side} {other} by {evidence}, within chance{unknown}."


_WHETHER_THE_TEACHER_PAID = (
    ": the teacher paid",
    ": here the teacher did harm",
    ": this run does not show that the teacher helped",
)
"""What follows where the other system is the same student without its teacher; elsewhere nothing does."""


def best_baseline(comparison: Comparison) -> SystemResult | None:
    """The best of the systems without parameters, if there are any."""
    baselines = [one for one in comparison.systems if one.is_baseline]
    return max(baselines, key=lambda one: one.rougeL.value, default=None)


def _above_baselines(comparison: Comparison, student: SystemResult) -> str:
    best = best_baseline(comparison)
    if best is None:
        return ""
    quality = f"ROUGE-L {number(best.rougeL.value)} ({span(best.rougeL)})"
    if student.rougeL.value <= best.rougeL.value:
        return f"It is not above “{spoken(best.name)}”, which needs no model at all: {quality}."
    if student.rougeL.low <= best.rougeL.high:
        return (
            f"It is above “{spoken(best.name)}”, the best baseline without a model, but intervals overlap: {quality}."
        )
    return f"The best baseline without a model, “{spoken(best.name)}”, has {quality}."


def key_figures(comparison: Comparison) -> list[Figure]:
    """What was gained and lost, to be seen at a glance; empty without a student."""
    if comparison.student is None:
        return []
    student = comparison[comparison.student]
    figures = [_quality(student), _speedup(student), _smaller(comparison, student), _gap(comparison, student)]
    return [figure for figure in figures if figure]


def _quality(student: SystemResult) -> Figure | None:
    if (kept := student.retention) is None:
        return None
    evidence = f"{span(kept, times=100)}%"
    return Figure(f"{number(100 * kept.value)}%", "of the teacher’s ROUGE-L kept", evidence, ratio_tone(kept))


def _speedup(student: SystemResult) -> Figure | None:
    if (speed := student.speedup) is None or student.latency is None:
        return None
    evidence = f"{span(speed, digits=2)}, over {len(student.latency.milliseconds)} texts"
    return Figure(f"{number(speed.value, 2)}×", "the teacher’s speed, one text at a time", evidence, ratio_tone(speed))


def _smaller(comparison: Comparison, student: SystemResult) -> Figure | None:
    if comparison.teacher is None or not comparison[comparison.teacher].parameters:
        return None
    teacher = comparison[comparison.teacher]
    evidence = f"{units.count(student.parameters)} of {units.count(teacher.parameters)}, {units.size(student.bytes)}"
    share = student.parameters / teacher.parameters
    tone: Tone = "gained" if share < 1 else "lost" if share > 1 else "within chance"
    return Figure(f"{100 * share:.0f}%", "of the teacher’s parameters", evidence, tone)


def _gap(comparison: Comparison, student: SystemResult) -> Figure | None:
    if comparison.against is None or (gap := student.difference) is None or student.p_value is None:
        return None
    evidence = f"{span(gap, signed=True)}, {p_words(student.p_value)}"
    label = f"ROUGE-L points over “{spoken(comparison.against)}”"
    return Figure(number(gap.value, signed=True), label, evidence, difference_tone(student))
