"""Trains a tiny model on a few examples; run by test_processes.py, alone and in two processes.

python two_processes.py FOLDER ACCUMULATION
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

from safetensors.torch import save_file

import tiny
from instil.data.tokens import Encoded
from instil.models.family import family_of
from instil.objectives.fused import Mix
from instil.train.config import Budget, LoopConfig
from instil.train.loop import train
from instil.train.task import RowLoss, TextTask


def examples(count: int) -> list[Encoded]:
    """Examples of very uneven lengths, so that a mean of means would show."""
    dice = random.Random(7)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(dice.randrange(3, 259) for _ in range(dice.randrange(1, most)))

    return [Encoded(str(number), ids(20), (*ids(12), tiny.END)) for number in range(count)]


def main(folder: Path, accumulation: int) -> None:
    """Six steps of two micro-batches, divided between the processes; the first one saves the weights."""
    # In fp64: Adam turns a gradient that is zero but for rounding into a whole step, in either direction.
    model = tiny.tiny_model("llama").double()
    task = TextTask(RowLoss(model, family_of(model), Mix(hard=1.0)), examples(40), batch_tokens=96)
    config = LoopConfig(
        budget=Budget(steps=6), batch_tokens=96, accumulation=accumulation, learning_rate=1e-3, trackers=(),
        checkpoint_steps=3, precision="fp32",
    )  # fmt: skip
    reports = list(train(task, config, folder=folder, seed=5))
    if os.environ.get("RANK", "0") == "0":
        weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        kept = [{"rows": report.rows, "loss": report.loss} for report in reports]
        (folder / "reports.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
