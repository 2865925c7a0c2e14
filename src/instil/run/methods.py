"""The methods that recipes can name, each with what it needs and costs: the rows of `methods.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path

TABLE = Path(__file__).with_name("methods.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way of teaching. `recipe`: its file in recipes/methods, where it has one. `live_teacher`: whether the teacher
    is in memory while the student trains. `same_tokenizer`: yes, or any. `time` and `memory`: of training beside
    fine-tuning the same student, with the `basis` of these numbers."""

    method: str
    recipe: str
    live_teacher: str
    same_tokenizer: str
    time: str
    memory: str
    basis: str


def all_methods() -> list[Method]:
    """The methods, in the table's order."""
    names = [field.name for field in fields(Method)]
    with TABLE.open(encoding="utf8", newline="") as file:
        return [Method(**{name: row[name] for name in names}) for row in csv.DictReader(file)]
