"""Does a student that writes for itself come nearer to its teacher where it goes by itself?

    python -m benchmarks.on_policy [--json] [--quick] [--minutes 6] [--seeds 3] [--share 1] [--divergence jsd]

The same student (18 of SmolLM2's 30 layers, those that the teacher was taught to do with) is trained for the same
minutes, its writing included, by the same divergence: from stored labels of the gold targets alone, and with a share of
on-policy batches that grows to --share by half of them. Then: the share of tokens that the teacher would accept of the
student in speculative decoding, sum of min(p, q), and KL(teacher, student), in three kinds of texts for the same
held-out sources: those that the student drafts, those that the teacher writes (which is where speculative decoding
stands), both drawn at temperature 1, and the gold targets. ROUGE-L is of greedy outputs. Tests are paired by record,
over means of all seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import TAUGHT, scored
from benchmarks.real import LIMITS, PROMPT, encode, label, load_teacher
from instil.data.records import Record
from instil.data.synopsis import load
from instil.data.tokens import Encoded, encode_records
from instil.evaluate.fidelity import ACCEPTANCE, KL, Reader, examine
from instil.evaluate.significance import Interval, mean_interval, paired_p_value
from instil.labels.codec import Codec
from instil.labels.teacher import Teacher
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.models.loading import LoadedModel
from instil.models.students.depth import keep_layers
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


def compare(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """A line for each way and seed, and at the end one for each kind of texts with the difference and its test."""
    loaded = load_teacher("smollm2")
    examples = encode(loaded, 0, options.records)
    held_out: list[Record] = load("validation")[: options.items]
    gold, _ = encode_records(loaded.tokenizer, PROMPT, held_out, LIMITS, loaded.kind)
    texts = {"gold": gold, "teacher": drafts(loaded.model, loaded.tokenizer, gold, 0)}
    store = label(loaded, examples, Codec.of("fine", loaded.model.config.vocab_size), folder / "store")
    start = keep_layers(loaded.model, TAUGHT)
    accepted: dict[tuple[str, str], list[Values]] = defaultdict(list)
    for seed in range(options.seeds):
        for way, share in (("off-policy", 0.0), ("on-policy", options.share)):
            student = copy.deepcopy(start)
            last = learn(student, loaded, examples, store.read, share, options, seed, folder / f"{way}-{seed}")
            row: dict[str, Any] = {"way": way, "seed": seed, "steps": last.step, "n": len(gold)}
            row["writing_share"] = round(last.renewed_s / last.elapsed_s, 3)
            texts["student"] = drafts(student, loaded.tokenizer, gold, seed)
            for kind, those in texts.items():
                found = nearness(student, loaded, those)
                accepted[way, kind].append(found[ACCEPTANCE.name])
                row[f"acceptance_{kind}"] = rounded(mean_interval(found[ACCEPTANCE.name], seed=0))
                row[f"kl_{kind}"] = round(float(found[KL.name].mean()), 4)
            yield row | {"rougeL": scored(student, loaded.tokenizer, held_out)["rougeL"]}
    for kind in texts:
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
    options = parser.parse_args()
    if options.quick:
        options.steps, options.seeds, options.items, options.records = 3, 1, 6, 30
    quiet_libraries()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in compare(options, Path(folder)):
            rows.append(row)
            if not options.json:
                print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
