"""Stage `evaluate`: teacher, student, the student without a teacher and the trivial baselines over the same records.

comparison.json, outputs/                what was found for the main task
tasks/<task>/comparison.json, outputs/   the same for each of `evaluate.also`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instil.core import console, publish
from instil.core.errors import StorageError
from instil.core.protocol import Generator
from instil.data.records import Record
from instil.evaluate.baselines import baselines_of
from instil.evaluate.compare import evaluate_systems, total_steps
from instil.evaluate.load import LoadPlan
from instil.evaluate.results import Comparison
from instil.models.generation import TransformersGenerator
from instil.models.loading import LoadedModel, to_accelerator
from instil.run.recipe import Recipe
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.further import further_inputs, further_systems
from instil.run.stages.made_models import load_made
from instil.run.stages.prompted import prompted_systems
from instil.run.stages.tasks import examined_records, not_taught, recipes_by_task, records_of
from instil.run.stages.teach import Teacher, generator_of

TEACHER, STUDENT, WITHOUT_TEACHER = "teacher", "student", "student_without_teacher"
COMPRESSED = "student_compressed"
COMPARISON_NAME = "comparison.json"
OUTPUTS_NAME = "outputs"
TASKS_NAME = "tasks"


def run_evaluate(
    shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher, students: Mapping[str, Artifact],
    untrained: Artifact | None = None,
) -> Artifact:  # fmt: skip
    """The artifact with `comparison.json` and each system's outputs. `students` maps names to trained students;
    `untrained`: the student before it learns, where the recipe asks for its answers."""
    inputs = {"teacher": teacher.fingerprint, "data": data.fingerprint}
    inputs |= {name: artifact.fingerprint for name, artifact in students.items()}
    if untrained is not None:
        inputs["untrained"] = untrained.fingerprint
    inputs |= further_inputs(recipe)
    return shop.stage(
        "evaluate",
        lambda folder: _evaluate(recipe, data, teacher, students, untrained, folder),
        inputs=inputs,
        config={
            "evaluate": recipe.evaluate.model_dump(mode="json"),
            "prompt": recipe.prompt.model_dump(mode="json"),
            "limits": recipe.limits.model_dump(mode="json"),
        },
    )


def read_comparison(artifact: Artifact, task: str | None = None) -> Comparison:
    """What the stage found for the main task, or for one of `evaluate.also`."""
    place = _place(artifact.folder, task)
    if (found := _found(place)) is None:
        what = f"{place / COMPARISON_NAME}: damaged"
        raise StorageError(f"{what}; delete {artifact.folder} and run the same command again")
    return found


def _found(folder: Path) -> Comparison | None:
    try:
        return Comparison.model_validate_json((folder / COMPARISON_NAME).read_text(encoding="utf8"))
    except (ValueError, FileNotFoundError):
        return None


def summary_of(comparison: Comparison, further: Mapping[str, Comparison]) -> dict[str, Any]:
    """The numbers of the main task, and under `tasks` those of the `further` ones."""
    tasks = {task: each.summary() for task, each in further.items()}
    return comparison.summary() | ({"tasks": tasks} if tasks else {})


def _place(folder: Path, task: str | None) -> Path:
    return folder / TASKS_NAME / task if task else folder


def systems_of(
    recipe: Recipe, data: Data, teacher: Teacher, students: Mapping[str, Artifact], untrained: Artifact | None = None
) -> tuple[dict[str, Generator], Sequence[Record]]:
    """All that is held against each other, by name, and the records that it is held on."""
    section = recipe.evaluate
    train, records = records_of(data.splits["train"], section.task), examined_records(data.splits, section)
    systems: dict[str, Generator] = {TEACHER: generator_of(recipe, teacher, beams=section.beams)}
    for name, artifact in students.items():
        systems[name] = _generator(recipe, load_made(artifact), name)
    systems |= prompted_systems(recipe, data, untrained) | further_systems(recipe, records)
    return systems | baselines_of(train, recipe.data.tasks[section.task].prefix), records


def _evaluate(
    recipe: Recipe, data: Data, teacher: Teacher, students: Mapping[str, Artifact], untrained: Artifact | None,
    folder: Path,
) -> Mapping[str, Any]:  # fmt: skip
    further = recipes_by_task(recipe)
    for each in (recipe, *further.values()):
        examined_records(data.splits, each.evaluate)  # What a task lacks is told before hours are spent on the first.

    def examined(recipe: Recipe, place: Path) -> Comparison:
        return _found(place) or examine(recipe, data, teacher, students, place, untrained)

    comparison = examined(recipe, folder)
    return summary_of(comparison, {task: examined(each, _place(folder, task)) for task, each in further.items()})


def examine(
    recipe: Recipe, data: Data, teacher: Teacher, students: Mapping[str, Artifact], folder: Path,
    untrained: Artifact | None = None,
) -> Comparison:  # fmt: skip
    """The comparison of `teacher`, `students`, systems that are only asked and the baselines over the records of
    `evaluate.task`, with its files in `folder`; outputs that stand there already are not generated again."""
    section = recipe.evaluate
    systems, records = systems_of(recipe, data, teacher, students, untrained)
    models = sum(isinstance(system, TransformersGenerator) for system in systems.values())
    examined = models * min(section.fidelity_items, len(records))
    steps = total_steps(len(systems), len(records), section.latency_items, examined)
    with console.progress(f"evaluate {section.task}" if recipe.data.also else "evaluate", steps, "outputs") as advance:
        comparison = evaluate_systems(
            systems, records, max_new_tokens=section.max_new_tokens, batch_size=section.batch_size, teacher=TEACHER,
            against=WITHOUT_TEACHER if WITHOUT_TEACHER in systems else None, seed=recipe.seed,
            student=STUDENT if STUDENT in systems else None, latency_items=section.latency_items,
            load=LoadPlan(batch_sizes=section.batch_sizes, watts=section.watts, usd_per_hour=section.usd_per_hour),
            fidelity_items=section.fidelity_items, metrics=section.metrics, answer=section.answer,
            embedder=section.embedder, advance=advance, outputs_folder=folder / OUTPUTS_NAME,
        )  # fmt: skip
    if WITHOUT_TEACHER in systems and not_taught(recipe):
        remark = f"the student without a teacher did not learn task {section.task}, which a teacher wrote"
        comparison = comparison.model_copy(update={"remarks": (*comparison.remarks, remark)})
    publish.write_text(folder / COMPARISON_NAME, comparison.model_dump_json(indent=2) + "\n")
    return comparison


def _generator(recipe: Recipe, loaded: LoadedModel, name: str) -> TransformersGenerator:
    return TransformersGenerator(
        to_accelerator(loaded.model), loaded.tokenizer, recipe.prompt, name=name, num_beams=recipe.evaluate.beams,
        max_source_tokens=recipe.limits.source,
    )  # fmt: skip
