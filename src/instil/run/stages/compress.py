"""Stage `compress`: the distilled student with fewer bits or weights, recovered from the labels it learned from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from instil.compress.config import CompressConfig
from instil.compress.rounding import bake, compress, packed_bytes
from instil.compress.structured import fewer_units
from instil.core import console, units
from instil.data.tokens import Encoded
from instil.models.family import family_of
from instil.models.loading import count_bytes
from instil.models.probe import evaluating
from instil.objectives.fused import Mix
from instil.run.recipe import Recipe
from instil.run.sections.distil import DistilConfig
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.distil import distil_task
from instil.run.stages.label import Labels
from instil.run.stages.made_models import keep_model, load_made
from instil.run.stages.reading import reading_of
from instil.run.stages.teach import encode
from instil.train.adaptation import Adaptation
from instil.train.checkpoint import discard
from instil.train.session import run_training
from instil.train.task import RowLoss, TextBatch, TextTask

_HELD_OUT = 200
_TURNS = 8
"""Timings of both models; a difference that is not there shows in all of them once in 2^8 times."""


def run_compress(
    shop: Workshop, recipe: Recipe, section: CompressConfig, distil: DistilConfig, data: Data, student: Artifact,
    labels: Labels,
) -> Artifact:  # fmt: skip
    """The compressed student; what it lost, what it weighs and how fast it is here stand in the stage's result."""
    config: dict[str, Any] = {
        "compress": section.model_dump(mode="json", exclude={"loop"}),
        "prompt": recipe.prompt.model_dump(mode="json"),
        "limits": recipe.limits.model_dump(mode="json"),
    }
    inputs = {"student": student.fingerprint, "data": data.fingerprint}
    if section.loop:
        names = {"alpha", "temperature", "divergence", "beta", "smoothing", "weigh"}
        config |= {"loop": section.loop.decisive(), "distil": distil.model_dump(mode="json", include=names)}
        inputs["labels"] = labels.fingerprint
    artifact = shop.stage(
        "compress",
        lambda folder: _compress(recipe, section, distil, data, student, labels, folder),
        inputs=inputs,
        config=config,
    )
    discard(artifact.folder)
    return artifact


def _compress(
    recipe: Recipe, section: CompressConfig, distil: DistilConfig, data: Data, student: Artifact, labels: Labels,
    folder: Path,
) -> Mapping[str, Any]:  # fmt: skip
    loaded = load_made(student)
    examples, _ = encode(recipe, loaded, labels.records, "train")
    held_out, _ = encode(recipe, loaded, data.splits["validation"][:_HELD_OUT], "validation")
    # All weights learn, and no features: the teacher is not in memory here.
    learning = distil.model_copy(update={"adapt": Adaptation(), "features": ()})
    reading = reading_of(recipe, loaded, labels, examples)

    def task_of(model: Any) -> TextTask:
        task = distil_task(recipe, learning, student, model, labels, reading)
        task.held_out = held_out
        return task

    before_bytes = count_bytes(loaded.model)
    before = _loss(task_of(loaded.model))
    model, result = _compressed(loaded.model, section, examples)
    task = task_of(model)
    result |= {"loss_before": before, "loss_compressed": _loss(task)}
    if section.loop:
        task.batch_tokens = section.loop.batch_tokens
        with console.progress("compress", 100, "%") as advance:
            result["recovery"] = run_training(
                task, section.loop, folder=folder, seed=recipe.seed_of_student, advance=advance
            )
    task.module.to("cpu")
    bake(model)
    after = _loss(task)
    sizes = {"bytes_before": before_bytes, "bytes_packed": packed_bytes(model, section)}
    result |= {"loss": after, **sizes, **_speed(load_made(student).model, model, task)}
    console.say(f"  {_told(section, result)}")
    return result | keep_model(model, loaded.tokenizer, folder)


def _compressed(model: Any, section: CompressConfig, examples: Sequence[Encoded]) -> tuple[Any, dict[str, Any]]:
    """`model` as it runs compressed, perhaps another one, and what is to be told of it."""
    if section.method != "structured":
        return model, {"weights": compress(model, section)}
    smaller, report = fewer_units(model, section.sparsity, examples)
    units = report.teacher.feed_forward, report.student.feed_forward
    console.say(f"  feed-forward units {units[0]:,} -> {units[1]:,}; of their importance stay {report.kept_units:.0%}")
    return smaller, {"units": units, "kept_importance": report.kept_units}


def _loss(task: TextTask) -> float:
    """Cross-entropy a row of the held-out examples, in nats."""
    with evaluating(task.module):
        sums = [task.module(batch) for batch in task.validation()]
    return sum(each.hard for each in sums) / max(sum(each.count for each in sums), 1)


def _speed(before: Any, after: Any, task: TextTask) -> dict[str, Any]:
    """How many times as fast as `before` the model `after` passes a held-out batch of `task`: the median of turns in
    which one follows the other, so that both meet the same machine, and the least and the greatest of them."""
    modules = [RowLoss(model, family_of(model), Mix(hard=1.0)) for model in (before, after)]
    turns: list[list[float]] = []
    with evaluating(modules[0]), evaluating(modules[1]):
        for batch in list(task.validation())[:1]:
            turns = [[_seconds(module, batch) for module in modules] for _ in range(1 + _TURNS)][1:]
    factors = sorted(slow / fast for slow, fast in turns) or [1.0]
    return {"speed": median(factors), "speed_range": [factors[0], factors[-1]]}


def _seconds(module: RowLoss, batch: TextBatch) -> float:
    started = time.perf_counter()
    module(batch)
    return time.perf_counter() - started


def _told(section: CompressConfig, result: Mapping[str, Any]) -> str:
    recovered = f", recovered to {result['loss']:.3f}" if section.loop else ""
    least, most = result["speed_range"]
    faster = f"{result['speed']:.2f} x as fast" if least > 1 else "not faster"
    return (
        f"{section.method}: held-out loss {result['loss_before']:.3f} -> {result['loss_compressed']:.3f}{recovered};"
        f" {units.size(result['bytes_before'])} -> {units.size(result['bytes_packed'])} once an engine packs it;"
        f" {faster} here in torch ({least:.2f} to {most:.2f} x in {_TURNS} turns of one forward pass,"
        f" {torch.get_num_threads()} threads);"
        " what an engine makes of it is measured after instil export"
    )
