"""Writing labels with a teacher in memory: rows only, chunk by chunk, all temperatures in one pass.

A shard is published whole; after a kill, whole shards are kept and only the others are made. A shard knows the
fingerprint of everything that it was made from (its *plan*), so one that another run or machine made is taken over
wherever the plan is the same.

Shape letters: N rows of a batch, C rows of a chunk, V vocabulary, R rows of a shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from instil.core import publish
from instil.core.console import Advance
from instil.core.errors import LabelError
from instil.core.fingerprint import fingerprint, hash_file
from instil.data.batches import epoch_batches
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.draw import Picks, pick
from instil.labels.shard import Columns, Shard, hash_target, hash_tokens, pack_shard
from instil.labels.store import (
    EXAMPLES_A_SHARD,
    FORMAT,
    MANIFEST_NAME,
    ShardEntry,
    StoreManifest,
    read_store_manifest,
    shard_name,
)
from instil.models.family import Family, Rows
from instil.models.probe import evaluating

_VERSION = 1
"""Raised when a change of the code changes labels, so that shards of the old code are not taken over."""
_CHUNK_NUMBERS = 1 << 24
_GOLDEN = 0.6180339887498949


@dataclass(kw_only=True)
class Teacher:
    """Who labels: a model with its family, `batch_tokens` at a time."""

    model: nn.Module
    family: Family
    batch_tokens: int = 4096

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def rows(self, examples: Sequence[Encoded]) -> Rows:
        """The rows of `examples`, without gradients."""
        with evaluating(self.model):
            return self.family.rows(self.model, self.family.collate(examples).to(self.device))


def vocabulary_of(teacher: Teacher) -> int:
    """Number of ids that the teacher predicts."""
    return teacher.rows([Encoded("", (0,), (0,))]).head.n_valid


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The share of the shards that one of several processes or machines makes: every `of`-th, counted from 1."""

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def write_labels(
    teacher: Teacher,
    examples: Sequence[Encoded],
    folder: Path,
    *,
    codec: Codec,
    made_from: Mapping[str, str],
    part: Part | None = None,
    reuse: Iterable[Path] = (),
    advance: Advance | None = None,
) -> StoreManifest:
    """Label `examples` into the store `folder`; only the shards of `part` when it is given.

    Shards of the same plan that stand in `folder` or in a finished store of `reuse` are kept, unless that store's
    checksums say that they were damaged since. Raises `LabelError` without examples, or where a part has none.
    """
    parts = [examples[start : start + EXAMPLES_A_SHARD] for start in range(0, len(examples), EXAMPLES_A_SHARD)]
    every = [(shard_name(number), some, _plan(made_from, codec, some)) for number, some in enumerate(parts)]
    own = every[part.number - 1 :: part.of] if part else every
    if not own:
        what = f"part {part} has no shard, since the data fill {len(every)}" if every else "the train split is empty"
        raise LabelError(f"nothing to label; {what}; " + ("merge the others" if every else "check the data"))
    publish.sweep(folder)
    _discard_other_plans(folder, codec, {name: plan for name, _, plan in own}, reuse)
    entries: list[ShardEntry] = []
    done = 0
    for name, some, plan in own:
        path = folder / name
        if not path.is_file():
            publish.write_bytes(path, _make(teacher, some, codec, plan))
        shard = Shard(path, codec)
        entries.append(ShardEntry(file=name, sha256=hash_file(path), examples=len(some), rows=shard.rows))
        done += len(some)
        if advance:
            advance(done, "")
    manifest = StoreManifest(
        made_from=dict(made_from), codec=codec, shards=tuple(entries), measured=measured(folder, codec, entries),
        part=str(part) if part and part.of > 1 else None, examples=len(examples),
        whole=fingerprint([plan for _, _, plan in every]),
    )  # fmt: skip
    manifest.write(folder)
    return manifest


def _plan(made_from: Mapping[str, str], codec: Codec, examples: Sequence[Encoded]) -> str:
    marks = [(e.id, e.prompt_ids, e.target_ids) for e in examples]
    return fingerprint(FORMAT, _VERSION, dict(made_from), codec, marks)


def _discard_other_plans(folder: Path, codec: Codec, plans: Mapping[str, str], reuse: Iterable[Path]) -> None:
    """Leaves in `folder` the shards of these plans that are sound, and takes over those that other stores have. Shards
    of another teacher, codec or data set may not be mixed in."""
    sums = _checksums(folder)
    for path in folder.glob("shard-*.safetensors"):
        if not _is_sound(path, codec, plans.get(path.name), sums.get(path.name)):
            path.unlink()
    if sorted(sums) != sorted(plans) or any(not (folder / name).is_file() for name in plans):
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for other in reuse:
        theirs = _checksums(other) if other != folder else {}
        for name, plan in plans.items():
            if name in theirs and not (folder / name).exists() and _is_sound(other / name, codec, plan, theirs[name]):
                publish.link(other / name, folder / name)


def _checksums(folder: Path) -> dict[str, str]:
    """What each shard's checksum was when the store in `folder` was finished; empty if it was not."""
    try:
        return {entry.file: entry.sha256 for entry in read_store_manifest(folder).shards}
    except LabelError:
        return {}


def _is_sound(path: Path, codec: Codec, plan: str | None, checksum: str | None) -> bool:
    try:
        return path.is_file() and Shard(path, codec).plan == plan and checksum in (None, hash_file(path))
    except LabelError:
        return False


@torch.inference_mode()
def _make(teacher: Teacher, examples: Sequence[Encoded], codec: Codec, plan: str) -> bytes:
    lengths = [example.length for example in examples]
    starts = np.concatenate([[0], np.cumsum([len(example.target_ids) for example in examples])])
    # Batches come sorted by length; `place` is where each of their rows belongs.
    place: list[NDArray[np.int64]] = []
    picks: list[list[Picks]] = [[] for _ in codec.temperatures]
    sums: dict[str, float] = defaultdict(float)
    for indices in epoch_batches(lengths, tokens=max([teacher.batch_tokens, *lengths]), seed=0, epoch=0):
        rows = teacher.rows([examples[index] for index in indices])
        target_N = torch.tensor([token for index in indices for token in examples[index].target_ids])
        starts_N = torch.from_numpy(np.concatenate([_draw_starts(examples[index]) for index in indices]))
        for chunk in _chunks(rows, target_N, starts_N):
            for number, found in enumerate(_pick_all(codec, *chunk, sums)):
                picks[number].append(found)
        place.extend(np.arange(starts[index], starts[index + 1]) for index in indices)
    back = torch.from_numpy(np.argsort(np.concatenate(place), kind="stable"))
    return pack_shard(
        codec, [example.id for example in examples], [len(example.target_ids) for example in examples],
        (
            [hash_tokens(example.prompt_ids) for example in examples],
            [hash_target(example.target_ids) for example in examples],
        ),
        [_columns(each, back) for each in picks], plan=plan, sums=sums,
    )  # fmt: skip


def _draw_starts(example: Encoded) -> NDArray[np.float64]:
    """Where the draw of each row begins: spread evenly over a text's rows, and the same in any batch."""
    first = int(fingerprint(example.id), 16) / 16**16
    return np.modf(first + _GOLDEN * np.arange(len(example.target_ids), dtype=np.float64))[0]


def _chunks(rows: Rows, target_N: Tensor, starts_N: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits in fp32, targets and draw starts of a few rows at a time."""
    size = max(1, _CHUNK_NUMBERS // rows.head.n_valid)
    for start in range(0, len(target_N), size):
        part = slice(start, start + size)
        logits_CV = rows.head.logits(rows.hidden_ND[part]).float()
        yield logits_CV, target_N[part].to(logits_CV.device), starts_N[part].float().to(logits_CV.device)


def _pick_all(
    codec: Codec, logits_CV: Tensor, target_C: Tensor, starts_C: Tensor, sums: dict[str, float]
) -> Iterator[Picks]:
    """The picks of a chunk at each temperature; adds to `sums` what the teacher thinks of the targets."""
    total_C = logits_CV.logsumexp(-1)
    gold_C = logits_CV.gather(1, target_C[:, None])[:, 0] - total_C
    if not bool(gold_C.isfinite().all()):
        raise LabelError("the teacher gives a target no finite probability; check its weights and its precision")
    sums["loss"] -= float(gold_C.cpu().double().sum())
    sums["agree"] += int((logits_CV.argmax(-1) == target_C).sum())
    for number, temperature in enumerate(codec.temperatures):
        last = number == len(codec.temperatures) - 1
        scaled_CV = logits_CV.div_(temperature) if last else logits_CV / temperature
        found = pick(scaled_CV, codec, starts_C)
        if number == 0:
            sums["rows"] += len(target_C)
            sums["heads"] += int((found.head_CK >= 0).sum())
            sums["drawn"] += int((found.drawn_CM >= 0).sum())
            sums["head_mass"] += float(found.masses_CK.sum()) / codec.unit
            sums["found"] += int((found.head_CK == target_C[:, None]).sum())
        yield Picks(head_CK=found.head_CK.cpu(), masses_CK=found.masses_CK.cpu(), drawn_CM=found.drawn_CM.cpu())


def _columns(picks: Sequence[Picks], back_R: Tensor) -> Columns:
    head_RK, masses_RK, drawn_RM = (
        _stacked([getattr(each, name) for each in picks])[back_R] for name in ("head_CK", "masses_CK", "drawn_CM")
    )
    used_RK, used_RM = head_RK >= 0, drawn_RM >= 0
    parts = used_RK.sum(-1), used_RM.sum(-1), head_RK[used_RK], masses_RK[used_RK], drawn_RM[used_RM]
    heads, draws, ids, masses, drawn = (tensor.numpy().astype(np.uint32) for tensor in parts)
    return Columns(heads_R=heads, draws_R=draws, ids_H=ids, masses_H=masses, drawn_S=drawn)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """The rows of all, widened with -1 to the widest."""
    widest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([nn.functional.pad(tensor, (0, widest - tensor.shape[1]), value=-1) for tensor in tensors])


def measured(folder: Path, codec: Codec, entries: Sequence[ShardEntry]) -> dict[str, float]:
    """What is known of a store, means over its rows at its first temperature: `bytes_per_row`; `head_entries` and
    `drawn_ids`; `head_mass`; the teacher's own `loss` on the targets at temperature 1 (nats) and their `perplexity`;
    the shares of targets that are the teacher's first choice and in the head."""
    sums: dict[str, float] = defaultdict(float)
    for entry in entries:
        for name, value in Shard(folder / entry.file, codec).sums.items():
            sums[name] += value
    rows = sums["rows"]
    size = sum((folder / entry.file).stat().st_size for entry in entries)
    return {
        "rows": float(rows),
        "bytes_per_row": size / rows,
        "head_entries": sums["heads"] / rows,
        "drawn_ids": sums["drawn"] / rows,
        "head_mass": sums["head_mass"] / rows,
        "loss": sums["loss"] / rows,
        "perplexity": float(np.exp(sums["loss"] / rows)),
        "top1_agreement": sums["agree"] / rows,
        "target_in_head": sums["found"] / rows,
    }
