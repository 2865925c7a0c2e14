"""Trains a tiny model on a few examples; run by test_processes.py, alone and in two processes.

python two_processes.py FOLDER ACCUMULATION [on-policy | fsdp | fsdp-resumed]
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import tiny
from instil.data.prompts import Prompt
from instil.data.tokens import Encoded
from instil.labels.teacher import Teacher
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.objectives.fused import Mix
from instil.objectives.schedules import Schedule
from instil.train.config import Budget, LoopConfig
from instil.train.live import LiveTask, OnPolicy, dense_labels
from instil.train.loop import train
from instil.train.task import RowLoss, TextTask


def examples(count: int) -> list[Encoded]:
    """Examples of very uneven lengths, so that a mean of means would show."""
    dice = random.Random(7)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(dice.randrange(3, 259) for _ in range(dice.randrange(1, most)))

    return [Encoded(str(number), ids(20), (*ids(12), tiny.END)) for number in range(count)]


def on_policy(model: Any) -> LiveTask:
    """Half of the micro-batches are written by the student, for the model of another seed."""
    theirs = tiny.tiny_model("llama", seed=1).double()
    teacher = Teacher(model=theirs, family=family_of(theirs))
    writer = TransformersGenerator(
        model, tiny.tiny_tokenizer("decoder-only"), Prompt(), name="", max_source_tokens=None
    )
    own = OnPolicy(
        share=Schedule.constant(0.5), longest=5, seed=3,
        draw=lambda prompts, seed: writer.draw(prompts, max_new_tokens=5, sample=1.0, seed=seed),
    )  # fmt: skip
    module = RowLoss(model, family_of(model), Mix(hard=1.0))
    return LiveTask(module, examples(40), examples(4), score=lambda batch: dense_labels(teacher.rows(batch)), own=own)


def task_of(model: Any, way: str) -> TextTask:
    """What `way` trains."""
    if way == "on-policy":
        return on_policy(model)
    return TextTask(RowLoss(model, family_of(model), Mix(hard=1.0)), examples(40), examples(4), batch_tokens=96)


def main(folder: Path, accumulation: int, way: str = "") -> None:
    """Six steps of two micro-batches, divided between the processes; the first one saves the weights."""
    config = LoopConfig(
        budget=Budget(steps=6), batch_tokens=96, accumulation=accumulation, learning_rate=1e-3, trackers=(),
        checkpoint_steps=3, precision="fp32", validate_steps=2, parallel="fsdp" if "fsdp" in way else "ddp",
    )  # fmt: skip
    reports = []
    for last_step in (4, 6) if way.endswith("resumed") else (6,):
        # In fp64: Adam turns a gradient that is zero but for rounding into a whole step, in either direction.
        model = tiny.tiny_model("llama").double()
        for report in train(task_of(model, way), config, folder=folder, seed=5):
            reports = [*(each for each in reports if each.step < report.step), report]
            if report.step == last_step < 6:
                break
    if os.environ.get("RANK", "0") == "0":
        weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        kept = [{"rows": each.rows, "loss": each.loss, "validation": each.validation_loss} for each in reports]
        (folder / "reports.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
