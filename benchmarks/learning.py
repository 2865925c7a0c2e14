"""Does a student learn as well from stored labels as from the whole distribution?

    python -m benchmarks.learning [--json] [--quick] [--steps 180] [--seeds 3] [--items 300]
                                  [--runs runs/benchmark-learning]

The same student (18 of SmolLM2's 30 layers, those that the teacher was taught to do with) is trained for the same
steps on the same batches in the same order: from the default labels, from dense labels of the teacher in memory, and
from the top 50 with the rest of the mass in one cell; ROUGE-L on validation records with bootstrap intervals, for
several seeds. 180 steps are about ten minutes on two cores. What is finished is kept in --runs: the same command goes
on from there.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.kept import kept
from benchmarks.real import LIMITS, PROMPT, encode, load_teacher
from instil.data.records import Record
from instil.data.synopsis import load
from instil.data.tokens import Encoded
from instil.evaluate.rouge import Rouge
from instil.evaluate.significance import mean_interval
from instil.labels.codec import Codec
from instil.labels.store import LabelStore
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.models.loading import LoadedModel
from instil.models.students.depth import keep_layers
from instil.objectives.fused import Mix
from instil.objectives.sparse import SparseLabels
from instil.run.quiet import quiet_libraries
from instil.train.config import Budget, LoopConfig
from instil.train.loop import train
from instil.train.nearness import Remembering, write_stores
from instil.train.task import RowLoss, TextBatch, TextTask

TAUGHT = (0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 20, 21, 22, 23, 24, 27, 28, 29)
"""The layers that the shipped adapter was taught to do with (recipes/quickstart.yaml)."""


@dataclass(slots=True)
class OnlineTask(TextTask):
    """Dense labels from a teacher in memory, through the same door: a head over every id."""

    teacher: Any = None

    def batch(self, indices: Sequence[int]) -> TextBatch:
        """The micro-batch of these examples with the teacher's whole distribution at each row."""
        plain = self._collate([self.examples[index] for index in indices], {})
        with torch.no_grad():
            rows = family_of(self.teacher).rows(self.teacher, plain.batch)
            probs_NV = rows.head.logits(rows.hidden_ND).float().softmax(-1)
        ids_NV = torch.arange(probs_NV.shape[1]).expand(probs_NV.shape)
        return TextBatch(plain.batch, {1.0: SparseLabels(ids_NK=ids_NV, probs_NK=probs_NV)}, plain.tokens)


def learned(student: Any, task: TextTask, steps: int, seed: int, folder: Path) -> None:
    """Trains `student`, the task's model, in place."""
    config = LoopConfig(
        budget=Budget(steps=steps), batch_tokens=1024, learning_rate=2e-4, trackers=(), checkpoint_minutes=1e6
    )
    for _ in train(task, config, folder=folder, seed=seed):
        pass
    student.eval()


def scored(student: Any, tokenizer: Any, records: Sequence[Record]) -> dict[str, float]:
    """ROUGE-L of greedy outputs, with its interval."""
    generator = TransformersGenerator(student, tokenizer, PROMPT, name="student", max_source_tokens=LIMITS.source)
    outputs = generator.generate([record.source for record in records], max_new_tokens=32, batch_size=16)
    scorer = Rouge(tokenizer="rouge-score")
    scores = [scorer.score(text, record.targets).rougeL for text, record in zip(outputs, records, strict=True)]
    interval = mean_interval(scores, seed=0)
    return {
        "rougeL": round(interval.value, 2), "low": round(interval.low, 2), "high": round(interval.high, 2),
        "n": len(records),
    }  # fmt: skip


class Start:
    """The teacher, and the student before it learns, made on first use."""

    @cached_property
    def loaded(self) -> LoadedModel:
        """The teacher."""
        return load_teacher("smollm2")

    @cached_property
    def start(self) -> Any:
        """The student before it learns."""
        return keep_layers(self.loaded.model, TAUGHT)


@dataclass
class Lesson(Start):
    """What all students learn; the stores, in `folder`, are made once."""

    steps: int
    folder: Path

    @cached_property
    def examples(self) -> list[Encoded]:
        """Enough for all steps."""
        return encode(self.loaded, 0, 20 * self.steps)

    @cached_property
    def stores(self) -> dict[str, LabelStore]:
        """By the name of their labels."""
        model = self.loaded.model
        vocabulary = model.config.vocab_size
        codecs = {"default": Codec.of("default", vocabulary), "top 50": Codec.top(50, vocabulary)}
        return write_stores(Remembering(model=model, family=family_of(model)), self.examples, codecs, self.folder)


def row_of(lesson: Lesson, name: str, seed: int, items: int) -> dict[str, Any]:
    """Trains a student from the labels `name` and scores it."""
    student = copy.deepcopy(lesson.start)
    module = RowLoss(student, family_of(student), Mix(soft=1.0, hard=0.0))
    task = (
        OnlineTask(module, lesson.examples, teacher=lesson.loaded.model)
        if name == "dense"
        else TextTask(module, lesson.examples, (), {1.0: lesson.stores[name].read})
    )
    with tempfile.TemporaryDirectory() as folder:
        learned(student, task, lesson.steps, seed, Path(folder))
    found = scored(student, lesson.loaded.tokenizer, load("validation")[:items])
    return {"labels": name, "seed": seed, "steps": lesson.steps, **found}


def compare(steps: int, seeds: int, items: int, runs: Path) -> Iterator[dict[str, Any]]:
    """A line of the table for each kind of labels and seed."""
    lesson = Lesson(steps, runs / f"labels-{steps}")
    for seed in range(seeds):
        for name in ("default", "dense", "top 50"):
            settings = {"labels": name, "seed": seed, "steps": steps, "items": items}
            yield kept(runs, settings, partial(row_of, lesson, name, seed, items))


def main() -> None:
    """Print the table, or with --json one object with a list `rows`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="three steps, one seed, 20 items")
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-learning"))
    options = parser.parse_args()
    quiet_libraries()
    steps, seeds, items = (3, 1, 20) if options.quick else (options.steps, options.seeds, options.items)
    rows = []
    for row in compare(steps, seeds, items, options.runs):
        rows.append(row)
        if not options.json:
            interval = f"{row['rougeL']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
            print(f"{row['labels']:<10} seed {row['seed']}  ROUGE-L {interval}  n = {row['n']}", flush=True)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
