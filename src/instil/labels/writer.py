"""Writing labels with a teacher in memory: rows only, the most probable ids of each, chunk by chunk.

Shape letters: N rows of a batch, C rows of a chunk, V vocabulary, K head entries, R rows of a shard.
A shard is published whole; after a kill, whole shards are kept and only the others are made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from instil.core import publish
from instil.core.console import Advance
from instil.core.errors import LabelError
from instil.core.fingerprint import fingerprint, hash_file
from instil.data.batches import epoch_batches
from instil.data.tokens import Encoded
from instil.labels.codec import Shard, hash_prompt, id_type, pack, unpack
from instil.labels.store import MANIFEST_NAME, Codec, ShardEntry, StoreManifest, read_store_manifest
from instil.models.family import Family, Rows
from instil.models.probe import evaluating

EXAMPLES_A_SHARD = 512
_CHUNK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """Who labels: a model with its family, `batch_tokens` at a time."""

    model: nn.Module
    family: Family
    batch_tokens: int = 4096


def write_labels(
    teacher: Teacher,
    examples: Sequence[Encoded],
    folder: Path,
    *,
    head: int,
    temperature: float,
    made_from: Mapping[str, str],
    advance: Advance | None = None,
) -> StoreManifest:
    """Label `examples` into the store `folder`; shards that an earlier, killed call finished there are kept, unless
    the checksums of that call's manifest say that they were damaged since.

    `measured` of the manifest: rows and bytes a row, the mean mass of the stored head, the shares of targets that are
    its first entry and any entry of it, and the teacher's mean loss on the latter (nats). Raises `LabelError` without
    examples.
    """
    if not examples:
        raise LabelError("nothing to label; the train split is empty")
    publish.sweep(folder)
    vocabulary = _vocabulary(teacher, examples[0])
    codec = Codec(head=min(head, vocabulary), temperature=temperature, vocabulary=vocabulary)
    plan = fingerprint(dict(made_from), codec, [(e.id, hash_prompt(e.prompt_ids), e.target_ids) for e in examples])
    _discard_other_plan(folder, plan)
    sums = _checksums(folder)
    entries: list[ShardEntry] = []
    for start in range(0, len(examples), EXAMPLES_A_SHARD):
        part = examples[start : start + EXAMPLES_A_SHARD]
        path = folder / f"shard-{start // EXAMPLES_A_SHARD:05d}.safetensors"
        shard = _kept(path, part, sums.get(path.name)) or _make(teacher, part, codec, path)
        entries.append(ShardEntry(file=path.name, sha256=hash_file(path), examples=len(part), rows=len(shard.target_R)))
        if advance:
            advance(start + len(part), "")
    manifest = StoreManifest(
        made_from=dict(made_from), codec=codec, shards=tuple(entries), measured=_measure(folder, entries)
    )
    manifest.write(folder)
    return manifest


def _vocabulary(teacher: Teacher, example: Encoded) -> int:
    device = next(teacher.model.parameters()).device
    with evaluating(teacher.model):
        return teacher.family.rows(teacher.model, teacher.family.collate([example]).to(device)).head.n_valid


def _discard_other_plan(folder: Path, plan: str) -> None:
    """Shards of another teacher, codec or data set may not be mixed in; the plan file says whose these are."""
    note = folder / "plan"
    if not note.is_file() or note.read_text() != plan:
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        for path in folder.glob("shard-*.safetensors"):
            path.unlink()
        publish.write_text(note, plan)


def _checksums(folder: Path) -> dict[str, str]:
    """What each shard's checksum was when the store in `folder` was finished; empty if it was not."""
    try:
        return {entry.file: entry.sha256 for entry in read_store_manifest(folder).shards}
    except LabelError:
        return {}


def _kept(path: Path, examples: Sequence[Encoded], checksum: str | None) -> Shard | None:
    if not path.is_file() or checksum not in (None, hash_file(path)):
        return None
    try:
        shard = unpack(path)
    except LabelError:
        return None
    return shard if shard.ids == tuple(example.id for example in examples) else None


def _make(teacher: Teacher, examples: Sequence[Encoded], codec: Codec, path: Path) -> Shard:
    counts = [len(example.target_ids) for example in examples]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    rows = sum(counts)
    ids_RK = np.zeros((rows, codec.head), id_type(codec.vocabulary))
    probs_RK = np.zeros((rows, codec.head), np.float16)
    tail_R = np.zeros(rows, np.float16)
    lengths = [example.length for example in examples]
    device = next(teacher.model.parameters()).device
    tokens = max([teacher.batch_tokens, *lengths])
    for indices in epoch_batches(lengths, tokens=tokens, seed=0, epoch=0):
        batch = teacher.family.collate([examples[index] for index in indices])
        with evaluating(teacher.model):
            ids_NK, probs_NK, tail_N = _heads(teacher.family.rows(teacher.model, batch.to(device)), codec)
        place_N = np.concatenate([np.arange(starts[i], starts[i] + counts[i]) for i in indices])
        ids_RK[place_N] = ids_NK.cpu().numpy()
        probs_RK[place_N] = probs_NK.cpu().numpy()
        tail_R[place_N] = tail_N.cpu().numpy()
    targets = np.array([token for example in examples for token in example.target_ids], id_type(codec.vocabulary))
    shard = Shard(
        ids=tuple(example.id for example in examples), head_ids_RK=ids_RK, head_probs_RK=probs_RK,
        tail_R=tail_R, target_R=targets, starts_E=starts,
        prompts_E=np.array([hash_prompt(example.prompt_ids) for example in examples], np.uint64),
    )  # fmt: skip
    publish.write_bytes(path, pack(shard))
    return shard


def _heads(rows: Rows, codec: Codec) -> tuple[Tensor, Tensor, Tensor]:
    """The `codec.head` most probable ids of each row and their probabilities at the codec's temperature, `(N, K)`; and
    the mass of all others, `(N,)`."""
    parts = []
    for hidden_CD in torch.split(rows.hidden_ND, _CHUNK):
        logits_CV = rows.head.logits(hidden_CD).float() / codec.temperature
        total_C1 = logits_CV.logsumexp(-1, keepdim=True)
        top = logits_CV.topk(codec.head, dim=-1)
        # Summed over the others, because 1 - sum(head) would cancel where the tail is small.
        tail_C = (logits_CV.scatter(1, top.indices, -torch.inf) - total_C1).exp().sum(-1)
        parts.append((top.indices, (top.values - total_C1).exp(), tail_C))
    ids, probs, tails = zip(*parts, strict=True)
    return torch.cat(ids), torch.cat(probs), torch.cat(tails)


def _measure(folder: Path, entries: Sequence[ShardEntry]) -> dict[str, float]:
    rows = agree = found = 0
    mass = log_loss = 0.0
    size = 0
    for entry in entries:
        shard = unpack(folder / entry.file)
        size += (folder / entry.file).stat().st_size
        probs = shard.head_probs_RK.astype(np.float64)
        hit_RK = shard.head_ids_RK == shard.target_R[:, None]
        gold = (probs * hit_RK).sum(-1)
        rows += len(gold)
        agree += int(hit_RK[:, 0].sum())
        found += int((gold > 0).sum())
        log_loss -= float(np.log(gold[gold > 0]).sum())
        mass += float(probs.sum())
    return {
        "rows": float(rows),
        "bytes_per_row": size / rows,
        "head_mass": mass / rows,
        "top1_agreement": agree / rows,
        "target_in_head": found / rows,
        "loss_where_target_in_head": log_loss / max(found, 1) if found else math.nan,
    }
