"""Stage `compare`: all students of a comparison over the same records, gathered by way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instil.core import publish
from instil.core.errors import InstilError, StorageError
from instil.evaluate.outputs import load_outputs
from instil.evaluate.results import Comparison
from instil.evaluate.ways import WayResult, Ways, compared, mean_of
from instil.run.compare.compare import Plan, Run
from instil.run.stage import Artifact
from instil.run.stages.evaluate import OUTPUTS_NAME, TEACHER, examine, read_comparison

WAYS_NAME = "ways.json"


def run_compare(plan: Plan) -> tuple[Artifact, dict[str, str]]:
    """The artifact with `ways.json`, and the `comparison.json` and outputs that it is drawn from: of the main task. And
    the ways that failed, with what they said, which are no part of it. Raises `InstilError` where one way is left."""
    failed = plan.train()
    if len(failed) == len(plan.config.ways) - 1:
        said = "; ".join(f"{way}, {error}" for way, error in failed.items())
        raise InstilError(f"{said}; nothing is left to compare “{plan.config.against}” with")
    return _gathered(plan.without(failed)), failed


def _gathered(plan: Plan) -> Artifact:
    pipeline = plan.first
    inputs = {run.name: run.student.fingerprint for run in plan.runs}
    inputs |= {TEACHER: pipeline.teacher.fingerprint, "data": pipeline.data.fingerprint}
    config = plan.config.model_dump(mode="json", include={"against", "usd_per_hour"})
    config |= {"evaluate": pipeline.recipe.evaluate.model_dump(mode="json", exclude={"also"})}
    return pipeline.shop.stage("compare", lambda folder: _compare(plan, folder), inputs=inputs, config=config)


def read_ways(artifact: Artifact) -> tuple[Ways, Comparison]:
    """What the stage found, by way and by run."""
    path = artifact.folder / WAYS_NAME
    try:
        return Ways.model_validate_json(path.read_text(encoding="utf8")), read_comparison(artifact)
    except (ValueError, FileNotFoundError) as error:
        raise StorageError(f"{path}: damaged; delete {artifact.folder} and run the same command again") from error


def _compare(plan: Plan, folder: Path) -> Mapping[str, Any]:
    pipeline = plan.first
    students = {run.name: run.student for run in plan.runs}
    comparison = examine(pipeline.recipe, pipeline.data, pipeline.teacher, students, folder, pipeline.asked)
    models = [one.name for one in comparison.systems if not one.is_baseline]
    outputs = {name: load_outputs(folder / OUTPUTS_NAME / f"{name}.jsonl") for name in models}
    ways = gather(plan, comparison, {name: [one.rougeL for one in found] for name, found in outputs.items()})
    publish.write_text(folder / WAYS_NAME, ways.model_dump_json(indent=2) + "\n")
    return {"ways": {way.name: round(way.score.value, 4) for way in ways.ways}, "against": ways.against}


def gather(plan: Plan, comparison: Comparison, scores: Mapping[str, Sequence[float]]) -> Ways:
    """The runs' results by way; `scores` has those of every model's outputs, by name."""
    by_way = {way: [run for run in plan.runs if run.way == way] for way in plan.config.ways}
    names = {run.name for run in plan.runs}
    matrices = {way: np.array([scores[run.name] for run in runs]) for way, runs in by_way.items()}
    beside = {name: np.array([values]) for name, values in scores.items() if name not in names}
    quality = compared(matrices | beside, plan.config.against, seed=comparison.seed)
    ways = [
        WayResult(name=way, **quality[way], **_effort(plan, runs), **_cost(comparison, runs[0].name))  # type: ignore[arg-type]
        for way, runs in by_way.items()
    ]
    others = [WayResult(name=name, **quality[name], **_cost(comparison, name)) for name in beside]  # type: ignore[arg-type]
    return Ways(
        ways=tuple(ways), beside=tuple(others), against=plan.config.against, budget=plan.budget, n=comparison.n,
        signature=comparison.signature, remarks=comparison.remarks,
    )  # fmt: skip


def _effort(plan: Plan, runs: Sequence[Run]) -> dict[str, float | None]:
    """What training took, the mean over the seeds; what the teacher did beforehand, once for all seeds."""
    made = [run.student.manifest.result for run in runs]
    seconds = mean_of([result.get("elapsed_s") for result in made])
    labels = runs[0].pipeline.labels
    rate = plan.config.usd_per_hour
    return {
        "train_seconds": seconds,
        "steps": mean_of([result.get("step") for result in made]),
        "tokens": mean_of([result.get("tokens") for result in made]),
        "prepare_seconds": labels.artifact.manifest.wall_s if labels.artifact else 0.0,
        "usd": rate * seconds / 3600 if rate and seconds else None,
    }


def _cost(comparison: Comparison, name: str) -> dict[str, Any]:
    """Of one system; of a way, the first seed's student: the others are of the same shape."""
    one = comparison[name]
    return {
        "parameters": one.parameters, "bytes": one.bytes, "latency": one.latency, "speedup": one.speedup,
        "retention": one.retention,
    }  # fmt: skip
