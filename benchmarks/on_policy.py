"""Does a student that writes for itself come nearer to its teacher where it goes by itself?

    python -m benchmarks.on_policy [--json] [--quick] [--minutes 6] [--seeds 3] [--share 1] [--divergence jsd]
                                   [--runs runs/benchmark-on-policy]

The same student (18 of SmolLM2's 30 layers, those that the teacher was taught to do with) is trained for the same
minutes, its writing included, by the same divergence: from stored labels of the gold targets alone, and with a share of
on-policy batches that grows to --share by half of them. Then: the share of tokens that the teacher would accept of the
student in speculative decoding, sum of min(p, q), and KL(teacher, student), in three kinds of texts for the same
held-out sources: those that the student drafts, those that the teacher writes (which is where speculative decoding
stands), both drawn at temperature 1, and the gold targets. ROUGE-L is of greedy outputs. Tests are paired by record,
over means of all seeds. What is finished is kept in --runs: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept import kept
from benchmarks.learning import Start, scored
from benchmarks.real import LIMITS, PROMPT, encode, label
from instil.data.records import Record
from instil.data.synopsis import load
from instil.data.tokens import Encoded, encode_records
from instil.evaluate.fidelity import ACCEPTANCE, KL, Reader, examine
from instil.evaluate.significance import Interval, mean_interval, paired_p_value
from instil.labels.codec import Codec
from instil.labels.store import LabelStore
from instil.labels.teacher import Teacher
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.models.loading import LoadedModel
from instil.objectives.config import DIVERGENCES
from instil.objectives.fused import Mix
from instil.objectives.schedules import Schedule
from instil.run.quiet import quiet_libraries
from instil.train.config import Budget, LoopConfig
from instil.train.live import LiveTask, OnPolicy, dense_labels
from instil.train.loop import train
from instil.train.state import StepReport
from instil.train.task import LabelReader, RowLoss

BATCH = 16
Values = np.ndarray[Any, np.dtype[np.float64]]


def writer(student: Any, tokenizer: Any) -> TransformersGenerator:
    """What draws the texts of `student`."""
    return TransformersGenerator(student, tokenizer, PROMPT, name="student", max_source_tokens=LIMITS.source)


def learn(
    student: Any, loaded: LoadedModel, examples: Sequence[Encoded], read: LabelReader, share: float,
    options: argparse.Namespace, seed: int, folder: Path,
) -> StepReport:  # fmt: skip
    """Trains `student` in place; the last step's report."""
    teacher = Teacher(model=loaded.model.requires_grad_(False), family=family_of(loaded.model))
    draw = partial(writer(student, loaded.tokenizer).draw, max_new_tokens=LIMITS.target, sample=1.0)
    own = OnPolicy(
        share=Schedule(start=0.0, end=share, until=0.5), draw=lambda prompts, at: draw(prompts, seed=at),
        longest=LIMITS.target, seed=seed,
    )  # fmt: skip
    module = RowLoss(student, family_of(student), Mix(soft=1.0, hard=0.0, divergence=options.divergence))
    # Both with the same room in their batches, so that these are the same examples.
    task = LiveTask(
        module, examples, labels={1.0: read}, score=lambda batch: dense_labels(teacher.rows(batch)), own=own
    )
    budget = Budget(steps=options.steps) if options.steps else Budget(minutes=options.minutes)
    config = LoopConfig(budget=budget, batch_tokens=1024, learning_rate=2e-4, trackers=(), checkpoint_minutes=1e6)
    *_, last = train(task, config, folder=folder, seed=seed)
    student.eval()
    return last


def drafts(student: Any, tokenizer: Any, examples: Sequence[Encoded], seed: int) -> list[Encoded]:
    """`examples` with a text of the student's, drawn at temperature 1, for target."""
    found = []
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        texts = writer(student, tokenizer).draw(
            [example.prompt_ids for example in part], max_new_tokens=LIMITS.target, sample=1.0, seed=seed + start
        )
        found += [replace(example, target_ids=tuple(ids)) for example, ids in zip(part, texts, strict=True)]
    return found


def nearness(student: Any, loaded: LoadedModel, examples: Sequence[Encoded]) -> dict[str, Values]:
    """Acceptance (%) and KL (nats a token) of each example's rows."""
    teacher, own = (Reader(model, family_of(model)) for model in (loaded.model, student))
    counted = {each.measure.name: each.each for each in examine(own, examples, teacher=teacher)}
    return {name: counted[name] for name in (ACCEPTANCE.name, KL.name)}


@dataclass
class Lesson(Start):
    """What both ways learn and are examined on; labels are made once."""

    options: argparse.Namespace

    @cached_property
    def examples(self) -> list[Encoded]:
        """What is learned."""
        return encode(self.loaded, 0, self.options.records)

    @cached_property
    def held_out(self) -> list[Record]:
        """What students are examined on."""
        return list(load("validation")[: self.options.items])

    @cached_property
    def texts(self) -> dict[str, list[Encoded]]:
        """The same with gold targets, and with those that the teacher draws."""
        loaded = self.loaded
        gold, _ = encode_records(loaded.tokenizer, PROMPT, self.held_out, LIMITS, loaded.kind)
        return {"gold": gold, "teacher": drafts(loaded.model, loaded.tokenizer, gold, 0)}

    @cached_property
    def store(self) -> LabelStore:
        """The labels of the examples."""
        codec = Codec.of("fine", self.loaded.model.config.vocab_size)
        return label(self.loaded, self.examples, codec, self.options.runs / f"labels-{self.options.records}")


def row_of(lesson: Lesson, way: str, share: float, seed: int) -> dict[str, Any]:
    """Trains a student and examines it; beside its line, the acceptance of each record by kind of texts."""
    loaded, student = lesson.loaded, copy.deepcopy(lesson.start)
    with tempfile.TemporaryDirectory() as folder:
        last = learn(
            student, loaded, lesson.examples, lesson.store.read, share, lesson.options, seed, Path(folder)
        )  # fmt: skip
    gold = lesson.texts["gold"]
    row: dict[str, Any] = {"way": way, "seed": seed, "steps": last.step, "n": len(gold)}
    row["writing_share"] = round(last.renewed_s / last.elapsed_s, 3)
    accepted = {}
    for kind, texts in (lesson.texts | {"student": drafts(student, loaded.tokenizer, gold, seed)}).items():
        found = nearness(student, loaded, texts)
        accepted[kind] = found[ACCEPTANCE.name].tolist()
        row[f"acceptance_{kind}"] = rounded(mean_interval(found[ACCEPTANCE.name], seed=0))
        row[f"kl_{kind}"] = round(float(found[KL.name].mean()), 4)
    row["rougeL"] = scored(student, loaded.tokenizer, lesson.held_out)["rougeL"]
    return {"line": row, "accepted": accepted}


def settings_of(options: argparse.Namespace, way: str, share: float, seed: int) -> dict[str, Any]:
    """All that a row depends on."""
    budget = {"steps": options.steps} if options.steps else {"minutes": options.minutes}
    names = ("divergence", "items", "records")
    return {"way": way, "share": share, "seed": seed, **budget, **{name: getattr(options, name) for name in names}}


def compare(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each way and seed, and at the end one for each kind of texts with the difference and its test."""
    lesson = Lesson(options)
    accepted: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for seed in range(options.seeds):
        for way, share in (("off-policy", 0.0), ("on-policy", options.share)):
            settings = settings_of(options, way, share, seed)
            found = kept(options.runs, settings, partial(row_of, lesson, way, share, seed))
            for kind, each in found["accepted"].items():
                accepted[way, kind].append(each)
            yield found["line"]
    for kind in ("gold", "teacher", "student"):
        off, on = (np.mean(accepted[way, kind], axis=0) for way in ("off-policy", "on-policy"))
        found_p = paired_p_value(on, off, seed=0)
        yield {"difference": kind, "acceptance": rounded(mean_interval(on - off, seed=0)), "p": round(found_p, 4)}


def rounded(interval: Interval) -> list[float]:
    """Value, low and high end."""
    return [round(each, 2) for each in (interval.value, interval.low, interval.high)]


def main() -> None:
    """Print the table, or with --json one object with a list `rows`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="three steps, one seed, 6 items, 30 records")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--steps", type=int, help="instead of --minutes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--records", type=int, default=800)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--divergence", default="jsd", choices=DIVERGENCES)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-on-policy"))
    options = parser.parse_args()
    if options.quick:
        options.steps, options.seeds, options.items, options.records = 3, 1, 6, 30
    quiet_libraries()
    rows = []
    for row in compare(options):
        rows.append(row)
        if not options.json:
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
