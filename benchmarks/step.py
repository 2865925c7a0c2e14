"""What does a distillation step cost beside a fine-tuning step, and beside other tools' steps?

    python -m benchmarks.step [--json] [--quick] [--model smollm2|gemma3]

One optimizer step (forward, backward, AdamW) of a student of 10 layers, on prompts of 120 tokens with targets of 16 and
of 120. Each way runs in a process of its own; the processes take turns, step by step, so that a noisy machine is noisy
for all of them. Medians; memory is a process's peak. The ways:

    transformers    cross-entropy through transformers' own loss with labels=
    ce              our cross-entropy
    distil          ours from a label store, read from disk in the step
    online          ours with the teacher in memory
    trl             TRL's DistillationTrainer loss: both backbones, both heads on completions, in tiles
    trl_full        TRL's GKD loss: full logits of teacher and student

TRL is an extra: pip install trl. Without it its keys are null.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.real import label, labels_of, load_teacher
from instil.core import console
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.draw import pick
from instil.labels.store import LabelStore
from instil.models.family import family_of
from instil.models.students.depth import evenly_spaced, keep_layers
from instil.objectives.fused import Mix
from instil.objectives.sparse import SparseLabels
from instil.run.quiet import quiet_libraries
from instil.train.task import RowLoss, TextBatch, TextTask

LAYERS, PROMPT_TOKENS, EXAMPLES = 10, 120, 8
TARGETS = (16, 120)
WAYS = ("transformers", "ce", "distil", "online", "trl", "trl_full")
RATIOS = {
    "distil_over_ce_time": ("distil", "ce", "seconds"),
    "distil_over_ce_memory": ("distil", "ce", "peak_mb"),
    "distil_over_transformers_time": ("distil", "transformers", "seconds"),
    "trl_over_distil_time": ("trl", "distil", "seconds"),
    "trl_full_logits_over_distil_time": ("trl_full", "distil", "seconds"),
}
Step = Callable[[], torch.Tensor]


def make_examples(target: int, vocabulary: int) -> list[Encoded]:
    """Examples of exactly these lengths; which ids they hold does not change the work."""
    generator = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(i) for i in generator.integers(5, vocabulary - 200, count))

    return [Encoded(f"example {number}", ids(PROMPT_TOKENS), ids(target)) for number in range(EXAMPLES)]


def _padded(examples: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, as transformers' and TRL's collators make them."""
    input_BT = torch.tensor([[*example.prompt_ids, *example.target_ids] for example in examples])
    labels_BT = input_BT.clone()
    labels_BT[:, :PROMPT_TOKENS] = -100
    return input_BT, labels_BT


def ours(way: str, teacher: Any, student: Any, examples: list[Encoded], store: Path) -> Step:
    """A step's loss through our rows and objective."""
    family = family_of(student)
    soft = way != "ce"
    module = RowLoss(student, family, Mix(soft=float(soft), hard=float(not soft)))
    opened = LabelStore(store, expect={}, temperature=1.0) if way == "distil" else None
    task = TextTask(module, examples, (), {1.0: opened.read} if opened else {})
    if way == "online":
        teacher_family = family_of(teacher)

        def online() -> torch.Tensor:
            batch = task.batch(range(len(examples)))
            with torch.inference_mode():
                rows = teacher_family.rows(teacher, batch.batch)
                codec = Codec.of("default", rows.head.n_valid)
                starts_N = torch.rand(len(rows.target_N), dtype=torch.float64)
                found = pick(rows.head.logits(rows.hidden_ND).float(), codec, starts_N)
                ids_NK, probs_NK = labels_of(found, codec)
            labels = SparseLabels(ids_NK=ids_NK.clone(), probs_NK=probs_NK.clone())
            return _mean(module, TextBatch(batch.batch, {1.0: labels}, batch.tokens))

        return online
    return lambda: _mean(module, task.batch(range(len(examples))))


def _mean(module: RowLoss, batch: TextBatch) -> torch.Tensor:
    return module(batch).total / batch.rows


def theirs(way: str, teacher: Any, student: Any, examples: list[Encoded]) -> Step:
    """A step's loss through transformers' loss or TRL's."""
    input_BT, labels_BT = _padded(examples)
    mask_BT = torch.ones_like(input_BT)
    if way == "transformers":
        return lambda: student(input_ids=input_BT, attention_mask=mask_BT, labels=labels_BT, use_cache=False).loss
    if way == "trl_full":
        from trl.experimental.gkd import GKDTrainer

        def full() -> torch.Tensor:
            ours_BTV = student(input_ids=input_BT, attention_mask=mask_BT).logits[:, :-1]
            with torch.no_grad():
                theirs_BTV = teacher(input_ids=input_BT, attention_mask=mask_BT).logits[:, :-1]
            return GKDTrainer.generalized_jsd_loss(ours_BTV, theirs_BTV, labels=labels_BT[:, 1:], beta=0.0)

        return full
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    keep = input_BT.shape[1] - PROMPT_TOKENS

    def hidden(model: Any) -> torch.Tensor:
        state = model.base_model(input_ids=input_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        return state[:, :-1][:, -keep:]

    def tiled() -> torch.Tensor:
        with torch.no_grad():
            teacher_BTD = hidden(teacher)
        return _chunked_divergence_loss(
            hidden(student), teacher_BTD, student.get_output_embeddings().weight,
            teacher.get_output_embeddings().weight, mask_BT[:, -keep:], 0.0,
        )[0]  # fmt: skip

    return tiled


def work(way: str, model: str, target: int, store: Path) -> None:
    """A worker: for each line on stdin one step; its seconds, waiting share and peak memory go to stdout."""
    quiet_libraries()
    teacher = load_teacher(model).model
    student = keep_layers(teacher, evenly_spaced(teacher.config.num_hidden_layers, LAYERS)).train()
    examples = make_examples(target, teacher.config.vocab_size)
    if way in ("transformers", "ce", "distil"):
        teacher = None
        gc.collect()
    made = ours if way in ("ce", "distil", "online") else theirs
    step = made(way, teacher, student, examples, store) if made is ours else theirs(way, teacher, student, examples)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        step().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}), flush=True)


def take_turns(model: str, target: int, store: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Measurements of every way that is installed, a step each in turn; the first round warms up."""
    ways = [way for way in WAYS if not way.startswith("trl") or importlib.util.find_spec("trl")]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    command = [sys.executable, "-m", "benchmarks.step", "--model", model, "--target", str(target)]
    workers = {
        way: subprocess.Popen(
            [*command, "--work", way, "--store", str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            # Threads that wait must not spin while another process has its turn.
            env=os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
        )
        for way in ways
    }  # fmt: skip
    try:
        for worker in workers.values():
            _answer(worker)
        for turn in range(rounds + 1):
            for way, worker in workers.items():
                assert worker.stdin is not None
                worker.stdin.write("\n")
                worker.stdin.flush()
                measured = json.loads(_answer(worker))
                if turn:
                    found[way].append(measured)
    finally:
        for worker in workers.values():
            worker.kill()
    return found


def _answer(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    if line := worker.stdout.readline():
        return line
    raise SystemExit(f"a worker ended: {' '.join(map(str, worker.args))}")  # type: ignore[arg-type]


def waiting_share(model: str, target: int, store: Path, steps: int) -> float:
    """Share of the loop's time in which a step waited for its labels."""
    from instil.train.config import Budget, LoopConfig
    from instil.train.loop import train

    teacher = load_teacher(model).model
    student = keep_layers(teacher, evenly_spaced(teacher.config.num_hidden_layers, LAYERS))
    examples = make_examples(target, teacher.config.vocab_size)
    opened = LabelStore(store, expect={}, temperature=1.0)
    task = TextTask(RowLoss(student, family_of(student), Mix(soft=1.0, hard=0.0)), examples, (), {1.0: opened.read})
    config = LoopConfig(
        budget=Budget(steps=steps + 1), batch_tokens=EXAMPLES * (PROMPT_TOKENS + target), trackers=(),
        checkpoint_minutes=1e6,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        reports = list(train(task, config, folder=Path(folder), seed=0))
    later = reports[1:]
    return sum(report.waited_s for report in later) / (later[-1].elapsed_s - reports[0].elapsed_s)


def bench(model: str, target: int, rounds: int) -> dict[str, Any]:
    """Medians and ratios for one target length."""
    loaded = load_teacher(model)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        vocabulary = loaded.model.config.vocab_size
        label(loaded, make_examples(target, vocabulary), Codec.of("default", vocabulary), store)
        del loaded
        gc.collect()
        found = take_turns(model, target, store, rounds)
        waiting = waiting_share(model, target, store, rounds)
    result: dict[str, Any] = {"model": model, "target": target, "rounds": rounds, "waiting_share": round(waiting, 5)}
    for way, turns in found.items():
        result[f"{way}_s"] = round(statistics.median(turn["seconds"] for turn in turns), 4)
        result[f"{way}_mb"] = round(max(turn["peak_mb"] for turn in turns))
    for name, (above, below, what) in RATIOS.items():
        pairs = zip(found.get(above, []), found.get(below, []), strict=False)
        ratios = sorted(one[what] / other[what] for one, other in pairs)
        result[name] = round(statistics.median(ratios), 3) if ratios else None
        result[f"{name}_range"] = [round(ratios[0], 3), round(ratios[-1], 3)] if ratios else None
    return result


def main() -> None:
    """Print a table, or with --json one object with the ratios for each target length."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="targets of 16 tokens alone, three rounds")
    parser.add_argument("--model", default="smollm2", choices=("smollm2", "gemma3"))
    parser.add_argument("--rounds", type=int, default=None)
    for hidden in ("--work", "--store"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.model, options.target, Path(options.store))
        return
    quiet_libraries()
    rounds = options.rounds or (3 if options.quick else 9)
    results = [bench(options.model, target, rounds) for target in (TARGETS[:1] if options.quick else TARGETS)]
    if options.json:
        print(json.dumps({f"{PROMPT_TOKENS}/{result['target']}": result for result in results}))
        return
    for result in results:
        console.say(f"{result['model']}, prompts of {PROMPT_TOKENS}, targets of {result['target']}, {rounds} rounds")
        for way in WAYS:
            if f"{way}_s" in result:
                print(f"  {way:<14}{result[f'{way}_s']:>9.3f} s{result[f'{way}_mb']:>8.0f} MB")
        for name in RATIOS:
            spread = f" ({result[f'{name}_range'][0]} to {result[f'{name}_range'][1]})" if result[name] else ""
            print(f"  {name:<34}{result[name]}{spread}")
        print(f"  {'waiting_share':<34}{result['waiting_share']}")


if __name__ == "__main__":
    main()
