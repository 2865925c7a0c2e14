"""Several tasks in one recipe: which records are whose, how often each has its turn, and how much it counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from instil.core.errors import DataError
from instil.data.mixing import mixture_of
from instil.data.records import Record
from instil.data.tokens import Encoded
from instil.run.recipe import Recipe


def records_of(records: Sequence[Record], task: str) -> list[Record]:
    """Those of `records` that belong to `task`. Raises `DataError` where there are others only."""
    found = [record for record in records if record.task == task]
    if records and not found:
        raise DataError(f"task {task!r} has no records in this split; name one that has, in evaluate.task")
    return found


def without_teachers(recipe: Recipe, records: Sequence[Record]) -> list[Record]:
    """Those of `records` that no teacher wrote."""
    theirs = {task.name for task in recipe.data.also if task.from_teacher}
    return [record for record in records if record.task not in theirs]


def turns_of(recipe: Recipe, examples: Sequence[Encoded]) -> dict[str, Any]:
    """What a training task is told of the tasks of its `examples`: their mixture and their weights."""
    sampling = recipe.data.sampling
    mixture = mixture_of([each.task for each in examples], temperature=sampling.temperature, most=sampling.most)
    return {"mixture": mixture, "weights": {name: task.weight for name, task in recipe.data.tasks.items()}}


def decisive_turns(recipe: Recipe) -> dict[str, Any]:
    """Those settings of the tasks that training depends on, beside the records; none where there is one task."""
    if not recipe.data.also:
        return {}
    weights = {name: task.weight for name, task in recipe.data.tasks.items()}
    return {
        "tasks": {
            "sampling": recipe.data.sampling.model_dump(mode="json"),
            "weights": weights,
            "from_teacher": [task.name for task in recipe.data.also if task.from_teacher],
        }
    }
