"""`instil plan --measure`: a few real steps of a recipe's training on this machine, and what they tell of the whole.

The student, its labels and the loop are those of the recipe. Batches differ in length, so a step's seconds are laid
against its FLOPs, counted by `instil.plan`; the line through the measured steps then gives any other step. Memory is
the process's peak, in these steps or while the longest examples are trained on.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from instil.core import console
from instil.core.errors import ConfigError
from instil.data.batches import Position, endless_batches
from instil.data.tokens import Encoded
from instil.evaluate.memory import added_memory
from instil.plan.configs import shape_of_config
from instil.plan.shape import Shape
from instil.plan.work import backward_flops, forward_flops
from instil.run.pipeline import Pipeline
from instil.run.sections.distil import DistilConfig
from instil.run.stages.distil import distil_task
from instil.run.stages.label import Labels
from instil.run.stages.made_models import load_made
from instil.run.stages.reading import Reading, reading_of
from instil.run.stages.teach import encode
from instil.train.config import Budget, LoopConfig
from instil.train.loop import train
from instil.train.state import StepReport
from instil.train.task import TextTask

WARM, TIMED = 5, 20
"""Steps that warm up, and steps that count."""
AHEAD = 400
"""Batches over which the whole training is foreseen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What this machine does with this recipe. `peak_bytes` is what training adds to a process that has loaded the
    student; None where it cannot be told."""

    step_seconds: float
    step_seconds_spread: float
    tokens_per_second: float
    flops_per_second: float
    peak_bytes: int | None
    steps: int
    with_labels: bool
    whole_steps: float
    whole_seconds: float


def measure(pipeline: Pipeline) -> Measured:
    """Measures and foresees. Makes the recipe's data and student where they are not there; no teacher is run."""
    section = pipeline.recipe.distil
    if section is None:
        raise ConfigError("the recipe has no distil section, so there is no step to measure; add one")
    labels = pipeline.labels if pipeline.recipe.labels.store else None
    if labels is None:
        console.say("measuring on gold targets alone: the recipe names no label store")
    student = load_made(pipeline.untrained)
    records = labels.records if labels else pipeline.data.splits["train"]
    examples, _ = encode(pipeline.recipe, student, records, "train")
    shape = shape_of_config("student", student.model.config.to_dict())
    loop = _short(section.loop)
    reading = reading_of(pipeline.recipe, student, labels, examples)
    task = distil_task(pipeline.recipe, section, pipeline.untrained, student.model, labels, reading)
    reports: list[StepReport] = []
    ordinary = added_memory(lambda: reports.extend(_steps(task, loop, pipeline.recipe.seed_of_student)))
    extreme = _peak(pipeline, section, student.model, reading, labels)
    peak = None if ordinary is None or extreme is None else max(ordinary, extreme)
    return _foreseen(
        section.loop, shape, reading.examples, reports, peak, seed=pipeline.recipe.seed_of_student, labels=labels
    )


def _short(loop: LoopConfig) -> LoopConfig:
    return loop.model_copy(
        update={
            "budget": Budget(steps=WARM + TIMED), "checkpoint_steps": WARM + TIMED + 1, "validate_steps": None,
            "trackers": (),
        }
    )  # fmt: skip


def _steps(task: TextTask, loop: LoopConfig, seed: int) -> list[StepReport]:
    with tempfile.TemporaryDirectory() as folder, console.progress("measure", WARM + TIMED, "steps") as advance:
        reports = []
        for report in train(task, loop, folder=Path(folder), seed=seed):
            reports.append(report)
            advance(report.step, "")
    return reports


def _peak(pipeline: Pipeline, section: DistilConfig, model: Any, reading: Reading, labels: Labels | None) -> int | None:
    """Bytes that two steps on the longest examples add; optimizer and gradients are theirs."""
    longest = sorted(reading.examples, key=lambda example: example.length)[-len(reading.examples) // 20 :]
    chosen = replace(reading, examples=longest)
    task = distil_task(pipeline.recipe, section, pipeline.untrained, model, labels, chosen)
    loop = _short(section.loop).model_copy(update={"budget": Budget(steps=2)})
    return added_memory(lambda: _steps(task, loop, pipeline.recipe.seed_of_student))


def _foreseen(
    loop: LoopConfig, shape: Shape, examples: Sequence[Encoded], reports: Sequence[StepReport], peak: int | None, *,
    seed: int, labels: Labels | None,
) -> Measured:  # fmt: skip
    """The whole training by the line through the timed steps: seconds by FLOPs."""
    work = _step_flops(loop, shape, examples, seed)
    seconds = [after.elapsed_s - before.elapsed_s for before, after in pairwise(reports)][WARM - 1 :]
    tokens = [after.tokens - before.tokens for before, after in pairwise(reports)][WARM - 1 :]
    timed = work[WARM : WARM + len(seconds)]
    # The median, because a machine that is busy with something else for a while is no slower machine.
    rate = statistics.median(flops / second for flops, second in zip(timed, seconds, strict=True))
    step = statistics.fmean(work) / rate
    off = [flops / rate / second for flops, second in zip(timed, seconds, strict=True)]
    per_step = statistics.fmean(tokens)
    steps = whole_steps(loop.budget, step, per_step, sum(example.length for example in examples))
    return Measured(
        step_seconds=step, step_seconds_spread=statistics.stdev(off), tokens_per_second=sum(tokens) / sum(seconds),
        flops_per_second=rate, peak_bytes=peak, steps=len(seconds), with_labels=labels is not None, whole_steps=steps,
        whole_seconds=steps * step,
    )  # fmt: skip


def _step_flops(loop: LoopConfig, shape: Shape, examples: Sequence[Encoded], seed: int) -> list[float]:
    """FLOPs of each coming step, padding included: that is computed too."""
    lengths = [example.length for example in examples]
    batches = endless_batches(lengths, tokens=loop.batch_tokens, seed=seed, start=Position(0, 0), most=loop.batch_size)
    each = (_batch_flops(shape, [examples[index] for index in indices]) for _, indices in batches)
    return [sum(islice(each, loop.accumulation)) for _ in range(AHEAD)]


def _batch_flops(shape: Shape, chosen: Sequence[Encoded]) -> float:
    source = max(len(example.prompt_ids) for example in chosen)
    target = max(len(example.target_ids) for example in chosen)
    length = max(example.length for example in chosen)
    rows = statistics.fmean(len(example.target_ids) for example in chosen)
    padded = (source, target) if shape.is_encoder_decoder else (length - target, target)
    flops = forward_flops(shape, *padded, rows=rows)
    return len(chosen) * (flops.total + backward_flops(flops))


def whole_steps(budget: Budget, seconds: float, tokens: float, epoch: float) -> float:
    """Optimizer steps of a budget, with steps of so many seconds and tokens, and so many tokens of all data."""
    if budget.steps:
        return budget.steps
    if budget.minutes:
        return budget.minutes * 60 / seconds
    return (budget.tokens or (budget.epochs or 1) * epoch) / tokens


def as_json(measured: Measured) -> dict[str, Any]:
    """All of it, in seconds and bytes."""
    return asdict(measured)
