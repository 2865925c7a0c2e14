"""What do stored labels cost, and how near is learning from them to learning from the whole distribution?

    python -m benchmarks.labels [--json] [--quick] [--models smollm2,gemma3,synthetic]

For each way of storing a row: bytes a target token, and the angle between the gradient that it gives and the one that
the dense distribution gives, with respect to all of the student's parameters, over batches of 512 and of 8,192 target
rows; and the median angle of a row's gradient with respect to its hidden state. For a scale, the angle between the
dense gradients of one batch of 512 and the next. The student is cut out of its teacher by block influence (18 of
SmolLM2's 30 layers, 12 of Gemma 3 270M's 18) and distilled for five minutes. `synthetic` has random heads over 151,936
ids, and its parameters are a head. Rivals are what other tools store, with the bytes of their layouts.

Shape letters: N rows, V vocabulary, D width, K entries.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.real import Pair, labels_of, make_pair
from instil.core import console
from instil.labels.codec import THRESHOLDS, Codec
from instil.labels.draw import Picks, pick
from instil.labels.shard import pack_shard
from instil.labels.store import LabelStore
from instil.labels.teacher import Teacher, columns_of
from instil.models.family import Rows, family_of
from instil.models.head import Head
from instil.run.quiet import quiet_libraries
from instil.train.nearness import Batch, Nearness, Remembering, Rival, nearness, stored_batches, through, write_stores

BATCH = 512
CHOSEN = "default"
LAYERS = {"smollm2": 18, "gemma3": 12}
SYNTHETIC_IDS = 151_936


def _top(probs_NV: Tensor, k: int) -> Tensor:
    top = probs_NV.topk(k)
    return torch.zeros_like(probs_NV).scatter_(1, top.indices, top.values)


def _renormalised(probs_NV: Tensor) -> Tensor:
    kept_NV = _top(probs_NV, 12)
    return kept_NV / kept_NV.sum(-1, keepdim=True)


def _uniform_tail(probs_NV: Tensor) -> Tensor:
    kept_NV = _top(probs_NV, 50)
    rest_N1 = 1 - kept_NV.sum(-1, keepdim=True)
    return torch.where(kept_NV > 0, kept_NV, rest_N1 / (probs_NV.shape[1] - 50))


def _draws(probs_NV: Tensor) -> Tensor:
    ids_NK = torch.multinomial(probs_NV, 12, replacement=True, generator=torch.Generator().manual_seed(0))
    return torch.zeros_like(probs_NV).scatter_add_(1, ids_NK, torch.full(ids_NK.shape, 1 / 12))


# Bytes: top-k with 32-bit ids cut to 17 bits and 16-bit values; DistillKit's top 50; three bytes a draw.
RIVALS = (
    Rival(name="top 12 renormalised", bytes_per_token=12 * (17 + 16) / 8, towards=_renormalised),
    Rival(name="top 12, zero tail", bytes_per_token=12 * (17 + 16) / 8, towards=lambda p_NV: _top(p_NV, 12)),
    Rival(name="top 50, uniform tail", bytes_per_token=114.0, towards=_uniform_tail),
    Rival(name="12 random draws", bytes_per_token=36.0, towards=_draws),
)


def synthetic_batches(
    batches: int, picks: dict[str, list[Picks]], *, vocabulary: int = SYNTHETIC_IDS, width: int = 64
) -> Iterator[Batch]:
    """Rows of random heads over `vocabulary` ids, an uncertain teacher and a student that nearly agrees with it. What
    each setting stores of them is added to its `picks`."""
    generator = torch.Generator().manual_seed(0)
    weight_VD = torch.randn(vocabulary, width, generator=generator)
    shift_VD = weight_VD + 0.1 * torch.randn(vocabulary, width, generator=generator)
    for _ in range(batches):
        hidden_ND = torch.randn(BATCH, width, generator=generator) * 0.45
        target_N = torch.zeros(BATCH, dtype=torch.long)
        teacher = Rows(hidden_ND, Head(weight_VD, None, 1.0, None, vocabulary), target_N, target_N)
        student = Rows(hidden_ND, Head(shift_VD, None, 1.0, None, vocabulary), target_N, target_N)
        labels: dict[str, tuple[Tensor, Tensor]] = {}
        for name in THRESHOLDS:
            codec = Codec.of(name, vocabulary)
            found = _picked(teacher, codec, generator)
            picks.setdefault(name, []).append(found)
            labels[name] = labels_of(found, codec)
        yield student, teacher, labels


def _picked(rows: Rows, codec: Codec, generator: torch.Generator) -> Picks:
    starts_N = torch.rand(len(rows.hidden_ND), generator=generator, dtype=torch.float64)
    return pick(rows.head.logits(rows.hidden_ND), codec, starts_N)


def bytes_a_row(picks: Sequence[Picks], codec: Codec) -> float:
    """What one row of `picks` takes in a shard that holds them all."""
    rows = sum(len(each.head_CK) for each in picks)
    columns = columns_of(picks, torch.arange(rows))
    return len(pack_shard(codec, ["rows"], [rows], ([0], [0]), [columns], plan="", sums={})) / rows


def bench(name: str, *, batches: int, rival_batches: int, minutes: float) -> list[dict[str, Any]]:
    """The table's lines for one model. Rivals are measured on the first `rival_batches` alone."""
    size: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        if name == "synthetic":
            picks: dict[str, list[Picks]] = {}
            found = nearness(synthetic_batches(batches, picks), lambda _, own: [own[1]], RIVALS)
            size = {name: bytes_a_row(picks[name], Codec.of(name, SYNTHETIC_IDS)) for name in THRESHOLDS}
        else:
            pair = make_pair(name, layers=LAYERS[name], minutes=minutes, count=60 * batches)
            teacher = Remembering(model=pair.teacher.model, family=family_of(pair.teacher.model))
            codecs: dict[str, Codec] = {setting: Codec.of(setting, teacher.vocabulary) for setting in THRESHOLDS}
            codecs["top 12, one cell"] = Codec.top(12, teacher.vocabulary)
            stores = write_stores(teacher, pair.examples, codecs, Path(folder))
            size = {setting: store.manifest.measured["bytes_per_row"] for setting, store in stores.items()}
            found = _real(pair, stores, batches, rival_batches)
    size |= {rival.name: rival.bytes_per_token for rival in RIVALS}
    return [_line(name, setting, size.get(setting), each) for setting, each in found.items()]


def _real(pair: Pair, stores: dict[str, LabelStore], batches: int, rival_batches: int) -> dict[str, Nearness]:
    teacher = Teacher(model=pair.teacher.model, family=family_of(pair.teacher.model))

    def some(count: int) -> Iterator[Batch]:
        family = family_of(pair.student)
        batches = islice(stored_batches(pair.student, family, teacher, pair.examples, stores, rows=BATCH), count)
        return console.track(batches, "gradients", count, "batches")

    own = nearness(some(batches), through(pair.student))
    rivals = nearness(((student, rows, {}) for student, rows, _ in some(rival_batches)), through(pair.student), RIVALS)
    return rivals | own


def _line(model: str, setting: str, size: float | None, found: Nearness) -> dict[str, Any]:
    rows = len(found.batches) * BATCH
    whole = round(found.whole, 3) if found.rows else None
    return {
        "model": model, "setting": setting, "bytes_per_token": None if size is None else round(size, 2),
        "angle_512": round(statistics.fmean(found.batches), 3), "rows": rows,
        "angle_8192": whole if rows == 8192 else None, "angle_rows": whole,
        "row_angle": round(statistics.median(found.rows), 3) if found.rows else None,
    }  # fmt: skip


def main() -> None:
    """Print the table, or with --json one object with `rows` and `chosen`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="SmolLM2, half a minute of distilling, 1,024 rows")
    parser.add_argument("--models", default=None, help="smollm2, gemma3, synthetic; with commas")
    parser.add_argument("--batches", type=int, default=None, help="batches of 512 rows; 16 make 8,192")
    parser.add_argument("--rival-batches", type=int, default=None, help="the same for what other tools store")
    parser.add_argument("--minutes", type=float, default=None, help="of distilling, at 18 steps of 1,024 tokens each")
    options = parser.parse_args()
    quiet_libraries()
    names = (options.models or ("smollm2" if options.quick else "smollm2,gemma3,synthetic")).split(",")
    batches = options.batches or (2 if options.quick else 16)
    rival_batches = options.rival_batches or batches
    minutes = options.minutes or (0.4 if options.quick else 5)
    rows = []
    for name in names:
        found = bench(name, batches=batches, rival_batches=rival_batches, minutes=minutes)
        rows += found
        if not options.json:
            _show(found)
    if options.json:
        print(json.dumps({"rows": rows, "chosen": CHOSEN}))


def _show(lines: list[dict[str, Any]]) -> None:
    console.say(f"{'model':<10}{'setting':<24}{'bytes':>9}{'512':>9}{'all':>9}{'a row':>9}   degrees")
    for line in lines:
        cells = (line["bytes_per_token"], line["angle_512"], line["angle_rows"], line["row_angle"])
        told = "".join(f"{'' if cell is None else f'{cell:.2f}':>9}" for cell in cells)
        print(f"{line['model']:<10}{line['setting']:<24}{told}   of {line['rows']:,} rows", flush=True)


if __name__ == "__main__":
    main()
