"""Stage `compress`: the distilled student with fewer bits or weights, recovered from the labels it learned from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from instil.compress.config import CompressConfig
from instil.compress.rounding import bake, compress, packed_bytes
from instil.compress.structured import fewer_units
from instil.core import console, units
from instil.data.tokens import Encoded
from instil.models.loading import count_bytes
from instil.models.probe import evaluating
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
from instil.train.task import TextTask

_HELD_OUT = 200
_TIMED = 5


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
    before, before_s = _measured(task_of(loaded.model))
    model, result = _compressed(loaded.model, section, examples)
    task = task_of(model)
    result |= {"loss_before": before, "loss_compressed": _measured(task)[0]}
    if section.loop:
        task.batch_tokens = section.loop.batch_tokens
        with console.progress("compress", 100, "%") as advance:
            result["recovery"] = run_training(
                task, section.loop, folder=folder, seed=recipe.seed_of_student, advance=advance
            )
    task.module.to("cpu")
    bake(model)
    after, after_s = _measured(task)
    sizes = {"bytes_before": before_bytes, "bytes_packed": packed_bytes(model, section)}
    result |= {"loss": after, **sizes, "speed": before_s / after_s}
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


def _measured(task: TextTask) -> tuple[float, float]:
    """Cross-entropy a row of the held-out examples, in nats, and the seconds that some of them take, the best of a
    few."""
    batches = list(task.validation())
    with evaluating(task.module):
        sums = [task.module(batch) for batch in batches]
        seconds = []
        for _ in range(_TIMED if batches else 0):
            started = time.perf_counter()
            task.module(batches[0])
            seconds.append(time.perf_counter() - started)
    rows = sum(each.count for each in sums)
    return sum(each.hard for each in sums) / max(rows, 1), min(seconds, default=1.0)


def _told(section: CompressConfig, result: Mapping[str, Any]) -> str:
    recovered = f", recovered to {result['loss']:.3f}" if section.loop else ""
    faster = f"{result['speed']:.2f} x as fast" if result["speed"] > 1.05 else "not faster"
    return (
        f"{section.method}: held-out loss {result['loss_before']:.3f} -> {result['loss_compressed']:.3f}{recovered};"
        f" {units.size(result['bytes_before'])} -> {units.size(result['bytes_packed'])} once an engine packs it;"
        f" {faster} here in torch (one forward pass, {torch.get_num_threads()} threads, best of {_TIMED});"
        " what an engine makes of it is measured after instil export"
    )
