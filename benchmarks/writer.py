"""How much slower than the teacher's bare forward pass is writing its labels?

    python -m benchmarks.writer [--json] [--quick]

The bare pass computes the logits of the target rows of the same batches and does nothing with them. Both take turns,
batch of examples by batch of examples; the median ratio and its range are printed, and rows a second of each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.real import encode, load_teacher
from instil.data.batches import epoch_batches
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.teacher import Teacher
from instil.labels.writer import write_labels
from instil.models.family import family_of
from instil.run.quiet import quiet_libraries


def bare(teacher: Teacher, examples: list[Encoded]) -> float:
    """Seconds of the forward passes over `examples`, in the writer's own batches."""
    started = time.perf_counter()
    lengths = [example.length for example in examples]
    for indices in epoch_batches(lengths, tokens=teacher.batch_tokens, seed=0, epoch=0):
        rows = teacher.rows([examples[index] for index in indices])
        rows.head.logits(rows.hidden_ND.clone())
    return time.perf_counter() - started


def main() -> None:
    """Print the ratio, or with --json one object with `writer_over_forward`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    quiet_libraries()
    loaded = load_teacher("smollm2")
    teacher = Teacher(model=loaded.model.requires_grad_(False), family=family_of(loaded.model))
    codec = Codec.of("default", teacher.vocabulary)
    rounds, count = (4, 40) if options.quick else (9, 128)
    ratios, speeds = [], []
    for turn in range(rounds + 1):
        examples = encode(loaded, turn * count, count)
        rows = sum(len(example.target_ids) for example in examples)
        forward_s = bare(teacher, examples)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            write_labels(teacher, examples, Path(folder), codec=codec, made_from={})
            writer_s = time.perf_counter() - started
        if turn:
            ratios.append(forward_s / writer_s)
            speeds.append((rows / writer_s, rows / forward_s))
    result = {
        "writer_over_forward": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "writer_rows_per_s": round(statistics.median(speed for speed, _ in speeds), 1),
        "forward_rows_per_s": round(statistics.median(speed for _, speed in speeds), 1),
    }
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
