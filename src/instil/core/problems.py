"""What a preflight finds: a problem with its grade, its evidence and its remedy, under a code that never changes.

`fail`: the work would end in an error or in a worthless result. `warn`: it would end, and be worse than it might be.
`info`: worth knowing. Whoever runs the checks shows all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instil.core.errors import InstilError

Grade = Literal["fail", "warn", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding of a preflight: what is wrong, the evidence, the remedy, and where. `code` names its kind."""

    grade: Grade
    code: str
    what: str
    remedy: str = ""
    evidence: str = ""
    where: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        evidence = f" ({self.evidence})" if self.evidence else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{evidence}{remedy}"


def fail(code: str, what: str, remedy: str, *, evidence: str = "", where: str = "") -> Problem:
    """What must be mended first."""
    return Problem(grade="fail", code=code, what=what, remedy=remedy, evidence=evidence, where=where)


def warn(code: str, what: str, remedy: str, *, evidence: str = "", where: str = "") -> Problem:
    """What had better be mended."""
    return Problem(grade="warn", code=code, what=what, remedy=remedy, evidence=evidence, where=where)


def info(code: str, what: str, remedy: str = "", *, evidence: str = "", where: str = "") -> Problem:
    """What is worth knowing."""
    return Problem(grade="info", code=code, what=what, remedy=remedy, evidence=evidence, where=where)


def graded(share: float, *, warns: float, fails: float = 1.0) -> Grade | None:
    """The grade of a defect that a `share` of all has: None up to `warns`, and never `fail` where `fails` is 1."""
    if share > fails:
        return "fail"
    return "warn" if share > warns else None


def problem_of(error: InstilError) -> Problem:
    """A user's error as a failing problem; its message is "what; remedy"."""
    known = getattr(error, "problem", None)
    if isinstance(known, Problem):
        return known
    what, _, remedy = str(error).rpartition("; ")
    return fail(error.code, what or str(error), remedy if what else "mend it and check again")
