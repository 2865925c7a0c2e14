"""What do stored labels cost, and how near is learning from them to learning from the whole distribution?

    python -m benchmarks.labels [--json] [--quick] [--models smollm2,gemma3,synthetic]

For each way of storing a row: bytes a target token, and the angle between the gradient that it gives and the one that
the dense distribution gives, with respect to all of the student's parameters, over batches of 512 and of 8,192 target
rows; and the median angle of a row's gradient with respect to its hidden state. The student is cut out of its teacher
(18 of SmolLM2's 30 layers, 12 of Gemma 3 270M's 18) and distilled for five minutes. `synthetic` has random heads over
151,936 ids, and its parameters are a head. Rivals are what other tools store, with the bytes of their layouts.

Shape letters: N rows, V vocabulary, D width, K entries.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.real import Pair, labels_of, make_pair
from instil.core import console
from instil.data.tokens import Encoded
from instil.labels.codec import THRESHOLDS, Codec
from instil.labels.draw import pick
from instil.labels.store import LabelStore
from instil.labels.teacher import Teacher
from instil.labels.writer import write_labels
from instil.models.family import Rows, family_of
from instil.models.head import Head
from instil.objectives.fused import Mix, SparseLabels, row_loss
from instil.run.quiet import quiet_libraries
from instil.train.task import projection_of

BATCH = 512
CHOSEN = "default"
Gradients = tuple[Tensor, Tensor]
"""With respect to hidden states `(N, D)` and head weight `(V, D)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Another tool's way: the distribution that it trains towards, from the teacher's; and its bytes a token."""

    name: str
    bytes_per_token: float
    towards: Callable[[Tensor], Tensor]


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


def towards(rows: Rows, target_NV: Tensor) -> Gradients:
    """Gradients of -sum target log q: q times the target's mass, minus the target."""
    with torch.no_grad():
        hidden_ND = rows.hidden_ND.detach()
        logits_NV = rows.head.logits(hidden_ND)
        step_NV = logits_NV.softmax(-1) * target_NV.sum(-1, keepdim=True) - target_NV
        if rows.head.softcap is not None:
            step_NV = step_NV * (1 - (logits_NV / rows.head.softcap).square())
        step_NV = step_NV * rows.head.scale
        weight_VD = rows.head.weight_VD
        padded_NV = torch.nn.functional.pad(step_NV, (0, len(weight_VD) - step_NV.shape[1]))
        return padded_NV @ weight_VD, padded_NV.T @ hidden_ND


def from_labels(rows: Rows, ids_NK: Tensor, probs_NK: Tensor) -> Gradients:
    """Gradients through the product's own objective."""
    hidden_ND = rows.hidden_ND.detach().requires_grad_()
    weight_VD = rows.head.weight_VD.detach().requires_grad_()
    loss = row_loss(
        hidden_ND, weight_VD, rows_target(rows), mix=Mix(soft=1.0, hard=0.0), projection=projection_of(rows.head),
        bias_V=rows.head.bias_V, labels=SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK),
    )  # fmt: skip
    return torch.autograd.grad(loss.total, (hidden_ND, weight_VD))  # type: ignore[return-value]


def rows_target(rows: Rows) -> Tensor:
    """The soft loss alone does not read targets."""
    return torch.zeros(len(rows.hidden_ND), dtype=torch.long)


def angle(dot: float, one: float, other: float) -> float:
    """Degrees between vectors of squared lengths `one` and `other`."""
    cosine = dot / max((one * other) ** 0.5, 1e-30)
    return float(torch.rad2deg(torch.acos(torch.tensor(min(1.0, max(-1.0, cosine)), dtype=torch.float64))))


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float(torch.dot(a.flatten(), b.flatten())) for a, b in zip(one, other, strict=True))


@dataclass(slots=True)
class Angles:
    """Angles of one setting to the dense gradient: of each batch, of the sum so far, of each row."""

    batches: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    total: list[Tensor] = field(default_factory=list)

    def add(self, own: list[Tensor], dense: list[Tensor], hidden: Tensor, dense_hidden: Tensor) -> None:
        self.batches.append(angle(_dot(own, dense), _dot(own, own), _dot(dense, dense)))
        cosine_N = torch.cosine_similarity(hidden.double(), dense_hidden.double(), dim=-1)
        self.rows.extend(torch.rad2deg(torch.acos(cosine_N.clamp(-1, 1))).tolist())
        self.sum(own)

    def sum(self, own: list[Tensor]) -> None:
        if not self.total:
            self.total = [tensor.clone() for tensor in own]
        else:
            torch._foreach_add_(self.total, own)


Backward = Callable[[Rows, Gradients], list[Tensor]]
Batches = Iterator[tuple[Rows, Rows, dict[str, tuple[Tensor, Tensor]]]]


def measure(batches: Batches, backward: Backward) -> dict[str, Angles]:
    """Angles of every setting over `batches` of (student's rows, teacher's rows, stored labels by setting)."""
    angles: dict[str, Angles] = defaultdict(Angles)
    whole = Angles()
    for student, teacher, stored in batches:
        with torch.no_grad():
            probs_NV = teacher.head.logits(teacher.hidden_ND).float().softmax(-1)
        exact = towards(student, probs_NV)
        dense = backward(student, exact)
        whole.sum(dense)
        ways = {name: from_labels(student, *labels) for name, labels in stored.items()}
        for name, found in ways.items():
            angles[name].add(backward(student, found), dense, found[0], exact[0])
        for rival in RIVALS:
            found = towards(student, rival.towards(probs_NV))
            angles[rival.name].add(backward(student, found), dense, found[0], exact[0])
    for each in angles.values():
        each.total = [torch.tensor(angle(_dot(each.total, whole.total), _dot(each.total, each.total),
                                         _dot(whole.total, whole.total)))]  # fmt: skip
    return dict(angles)


class _Remembering(Teacher):
    """A teacher that passes over its examples once, however many codecs write their labels."""

    def rows(self, examples: Sequence[Encoded]) -> Rows:
        key = tuple(example.id for example in examples)
        known = self.__dict__.setdefault("known", {})
        if key not in known:
            known[key] = super().rows(examples)
        return known[key]  # type: ignore[no-any-return]


def write_stores(pair: Pair, folder: Path) -> dict[str, LabelStore]:
    """A store of all the pair's examples for each named setting, and for a plain head of 12."""
    teacher = _Remembering(model=pair.teacher.model, family=family_of(pair.teacher.model))
    vocabulary = teacher.rows(pair.examples[:1]).head.n_valid
    codecs = {name: Codec.of(name, vocabulary) for name in THRESHOLDS} | {"top 12, one cell": Codec.top(12, vocabulary)}
    stores = {}
    for name, codec in codecs.items():
        write_labels(teacher, pair.examples, folder / name, codec=codec, made_from={})
        stores[name] = LabelStore(folder / name, expect={}, temperature=1.0)
    return stores


def _cut(rows: Rows, count: int) -> Rows:
    return Rows(rows.hidden_ND[:count], rows.head, rows.target_N[:count], rows.example_N[:count])


def real_batches(pair: Pair, stores: dict[str, LabelStore], batches: int) -> Batches:
    """`batches` times the first 512 rows of as many whole examples as hold them."""
    family, teacher_family = family_of(pair.student), family_of(pair.teacher.model)
    left = iter(pair.examples)
    for _ in range(batches):
        examples: list[Encoded] = []
        while sum(len(example.target_ids) for example in examples) < BATCH:
            examples.append(next(left))
        with torch.no_grad():
            teacher = _cut(teacher_family.rows(pair.teacher.model, teacher_family.collate(examples)), BATCH)
        student = _cut(family.rows(pair.student, family.collate(examples)), BATCH)
        labels = {name: tuple(part[:BATCH] for part in store.read(examples)) for name, store in stores.items()}
        yield student, teacher, labels  # type: ignore[misc]


def through_model(model: torch.nn.Module) -> Backward:
    """Gradients of rows carried back to all parameters of `model`; the head's own is added to its weight."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def backward(rows: Rows, found: Gradients) -> list[Tensor]:
        carried = torch.autograd.grad(rows.hidden_ND, parameters, found[0], retain_graph=True, allow_unused=True)
        own = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, carried, strict=True)]
        place = next(i for i, p in enumerate(parameters) if p.data_ptr() == rows.head.weight_VD.data_ptr())
        own[place] = own[place] + found[1]
        return own

    return backward


def synthetic_batches(batches: int, folder: Path, *, vocabulary: int = 151_936, width: int = 64) -> Batches:
    """Rows of random heads over `vocabulary` ids, an uncertain teacher and a student that nearly agrees with it."""
    generator = torch.Generator().manual_seed(0)
    weight_VD = torch.randn(vocabulary, width, generator=generator)
    shift_VD = weight_VD + 0.1 * torch.randn(vocabulary, width, generator=generator)
    for _ in range(batches):
        hidden_ND = torch.randn(BATCH, width, generator=generator) * 0.45
        target_N = torch.zeros(BATCH, dtype=torch.long)
        teacher = Rows(hidden_ND, Head(weight_VD, None, 1.0, None, vocabulary), target_N, target_N)
        student = Rows(hidden_ND, Head(shift_VD, None, 1.0, None, vocabulary), target_N, target_N)
        labels = {}
        for name in THRESHOLDS:
            labels[name] = _picked(teacher, Codec.of(name, vocabulary), generator)
        yield student, teacher, labels


def _picked(rows: Rows, codec: Codec, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    starts_N = torch.rand(len(rows.hidden_ND), generator=generator, dtype=torch.float64)
    return labels_of(pick(rows.head.logits(rows.hidden_ND), codec, starts_N), codec)


def bench(name: str, *, batches: int, minutes: float) -> list[dict[str, Any]]:
    """The table's lines for one model."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "synthetic":
            angles = measure(synthetic_batches(batches, Path(folder)), lambda _, found: [found[1]])
            size = {setting: float("nan") for setting in angles}
        else:
            layers = {"smollm2": 18, "gemma3": 12}[name]
            pair = make_pair(name, layers=layers, minutes=minutes, count=60 * batches)
            stores = write_stores(pair, Path(folder))
            angles = measure(real_batches(pair, stores, batches), through_model(pair.student))
            size = {setting: store.manifest.measured["bytes_per_row"] for setting, store in stores.items()}
    size |= {rival.name: rival.bytes_per_token for rival in RIVALS}
    return [
        {
            "model": name, "setting": setting, "bytes_per_token": round(size[setting], 2),
            "angle_512": round(statistics.fmean(found.batches), 3),
            "angle_8192": round(float(found.total[0]), 3), "rows": batches * BATCH,
            "row_angle": round(statistics.median(found.rows), 3),
        }
        for setting, found in angles.items()
    ]  # fmt: skip


def main() -> None:
    """Print the table, or with --json one object with `rows` and `chosen`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="SmolLM2, half a minute of distilling, 1,024 rows")
    parser.add_argument("--models", default=None, help="smollm2, gemma3, synthetic; with commas")
    parser.add_argument("--batches", type=int, default=None, help="batches of 512 rows; 16 make 8,192")
    parser.add_argument("--minutes", type=float, default=None, help="of distilling")
    options = parser.parse_args()
    quiet_libraries()
    names = (options.models or ("smollm2" if options.quick else "smollm2,gemma3,synthetic")).split(",")
    batches = options.batches or (2 if options.quick else 16)
    minutes = options.minutes or (0.4 if options.quick else 5)
    rows = []
    for name in names:
        rows += bench(name, batches=batches, minutes=minutes)
    if options.json:
        print(json.dumps({"rows": rows, "chosen": CHOSEN}))
        return
    console.say(f"{'model':<10}{'setting':<24}{'bytes':>8}{'512':>9}{f'{batches * BATCH:,}':>9}{'row':>9}   degrees")
    for row in rows:
        cells = (row["angle_512"], row["angle_8192"], row["row_angle"])
        print(
            f"{row['model']:<10}{row['setting']:<24}{row['bytes_per_token']:>8.1f}"
            + "".join(f"{c:>9.2f}" for c in cells)
        )


if __name__ == "__main__":
    main()
