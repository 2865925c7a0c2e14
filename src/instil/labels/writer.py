"""Writing a label store, shard by shard, whoever labels (teacher.py, served.py).

A shard is published whole; after a kill, whole shards are kept and only the others are made. A shard knows the
fingerprint of everything that it was made from (its *plan*), so one that another run or machine made is taken over
wherever the plan is the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from instil.core import publish
from instil.core.console import Advance
from instil.core.errors import LabelError
from instil.core.fingerprint import fingerprint, hash_file
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.shard import Shard, hash_target, hash_tokens, pack_shard
from instil.labels.store import (
    EXAMPLES_A_SHARD,
    FORMAT,
    MANIFEST_NAME,
    ShardEntry,
    StoreManifest,
    read_store_manifest,
    shard_name,
)
from instil.labels.teacher import Labeller

_VERSION = 1
"""Raised when a change of the code changes labels, so that shards of the old code are not taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The share of the shards that one of several processes or machines makes: every `of`-th, counted from 1."""

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def write_labels(
    labeller: Labeller,
    examples: Sequence[Encoded],
    folder: Path,
    *,
    codec: Codec,
    made_from: Mapping[str, str],
    details: Mapping[str, str] | None = None,
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
            aside = folder / f".answers-{plan}.jsonl"
            publish.write_bytes(path, _make(labeller, some, codec, plan, aside, _behind(advance, done)))
            aside.unlink(missing_ok=True)
        shard = Shard(path, codec)
        entries.append(ShardEntry(file=name, sha256=hash_file(path), examples=len(some), rows=shard.rows))
        done += len(some)
        if advance:
            advance(done, "")
    manifest = StoreManifest(
        made_from=dict(made_from), details=dict(details or {}), codec=codec, shards=tuple(entries),
        measured=measured(folder, codec, entries), part=str(part) if part and part.of > 1 else None,
        examples=len(examples), whole=fingerprint([plan for _, _, plan in every]),
    )  # fmt: skip
    manifest.write(folder)
    return manifest


def _behind(advance: Advance | None, done: int) -> Callable[[int], None]:
    """Advances by what is done of a shard, behind the `done` examples of the shards before it."""
    return lambda more: advance(done + more, "") if advance else None


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


def _make(
    labeller: Labeller,
    examples: Sequence[Encoded],
    codec: Codec,
    plan: str,
    aside: Path,
    advance: Callable[[int], None],
) -> bytes:
    found = labeller.label(examples, codec, aside=aside, advance=advance)
    return pack_shard(
        codec, [example.id for example in examples], [len(example.target_ids) for example in examples],
        (
            [hash_tokens(example.prompt_ids) for example in examples],
            [hash_target(example.target_ids) for example in examples],
        ),
        found.columns, plan=plan, sums=found.sums,
    )  # fmt: skip


def measured(folder: Path, codec: Codec, entries: Sequence[ShardEntry]) -> dict[str, float]:
    """What is known of a store, means over its rows at its first temperature: `bytes_per_row`; `head_entries` and
    `drawn_ids`; `head_mass`; the teacher's own `loss` on the targets at temperature 1 (nats) and their `perplexity`;
    the shares of targets that are the teacher's first choice and in the head. Of a served teacher also the numbers of
    `requests`, `input_tokens` and `output_tokens`, what they cost in `usd`, and the share of targets that it did not
    list (`unlisted`), whose loss is counted at the least that it can be."""
    sums: dict[str, float] = defaultdict(float)
    for entry in entries:
        for name, value in Shard(folder / entry.file, codec).sums.items():
            sums[name] += value
    rows = sums["rows"]
    size = sum((folder / entry.file).stat().st_size for entry in entries)
    served: dict[str, float] = {
        name: sums[name] for name in ("requests", "input_tokens", "output_tokens", "usd") if name in sums
    }
    if served:
        served["unlisted"] = sums["unlisted"] / rows
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
        **served,
    }
