"""What part a system has in a comparison, and what it is called on paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from instil.evaluate.results import Comparison, SystemResult

Role = Literal["student", "against", "teacher", "baseline", "other"]


def role_of(comparison: Comparison, name: str) -> Role:
    """The part of the system, or training run, called `name`. Systems without parameters are baselines."""
    if name == comparison.student:
        return "student"
    if name == comparison.teacher:
        return "teacher"
    if name == comparison.against:
        return "against"
    return "baseline" if any(one.name == name and one.is_baseline for one in comparison.systems) else "other"


def spoken(name: str) -> str:
    """`name` as it is written in a sentence: "student without teacher"."""
    return name.replace("_", " ")


def reading_order(comparison: Comparison) -> list[SystemResult]:
    """Teacher, student, the one it is held against, then the others as they came, then the baselines."""
    order: tuple[Role, ...] = ("teacher", "student", "against", "other", "baseline")
    return sorted(comparison.systems, key=lambda one: order.index(role_of(comparison, one.name)))
