"""Several tasks in one recipe: which records are whose, how often each has its turn, and how much it counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from instil.core.errors import DataError
from instil.data.config import FurtherTask
from instil.data.mixing import mixture_of
from instil.data.preflight import not_held_out
from instil.data.records import Record, Splits
from instil.data.tokens import Encoded
from instil.run.recipe import Recipe
from instil.run.sections.evaluate import Examined


def records_of(records: Sequence[Record], task: str) -> list[Record]:
    """Those of `records` that belong to `task`. Raises `DataError` where there are others only."""
    found = [record for record in records if record.task == task]
    if records and not found:
        raise DataError(f"task {task!r} has no records in this split; name one that has, in evaluate.task")
    return found


def examined_records(splits: Splits, section: Examined) -> list[Record]:
    """The records that a task is examined on. Raises `DataError` where its split has none."""
    if missing := not_held_out(splits, section.split, section.task):
        raise DataError(str(missing))
    return records_of(splits[section.split], section.task)[: section.items]


def recipes_by_task(recipe: Recipe) -> dict[str, Recipe]:
    """What the recipe comes to for each further task that it examines. They are not timed, since a system costs what
    it does for the main one, and neither files of outputs nor prompts that were written for the main task are theirs.
    """
    section = recipe.evaluate
    shared = {
        "also": (), "latency_items": 0, "batch_sizes": (),
        "prompted": tuple(each for each in section.prompted if each.prompt is None),
        "systems": {name: system for name, system in section.systems.items() if system.outputs is None},
    }  # fmt: skip
    return {
        each.task: recipe.model_copy(update={"evaluate": section.model_copy(update=dict(each) | shared)})
        for each in section.also
    }


def not_taught(recipe: Recipe) -> bool:
    """Whether a teacher wrote the task that is examined, so that a student without one did not learn it."""
    task = recipe.data.tasks[recipe.evaluate.task]
    return isinstance(task, FurtherTask) and task.from_teacher


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
