"""A label store: shards, and a manifest that says whose labels they are. Reading refuses what does not match.

labels/
    shard-00000.safetensors ...     512 examples each
    manifest.json                   written last: fingerprints, codec, checksums
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from instil.core import publish
from instil.core.errors import LabelError
from instil.core.fingerprint import hash_file
from instil.data.tokens import Encoded
from instil.labels.codec import Shard, hash_prompt, restore_probs, unpack

MANIFEST_NAME = "manifest.json"


class Codec(BaseModel):
    """How rows are stored: `head` entries a row, at `temperature`, of a teacher with `vocabulary` output ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: int
    temperature: float
    vocabulary: int


class ShardEntry(BaseModel):
    """One shard file and its checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    examples: int
    rows: int


class StoreManifest(BaseModel):
    """What stands in a store's manifest. `made_from` maps teacher, tokenizer, prompt, ... to their fingerprints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    made_from: dict[str, str]
    codec: Codec
    shards: tuple[ShardEntry, ...]
    measured: dict[str, float]

    def write(self, folder: Path) -> None:
        """Write the manifest into `folder`, in one step."""
        publish.write_text(folder / MANIFEST_NAME, self.model_dump_json(indent=2) + "\n")


def read_store_manifest(folder: Path) -> StoreManifest:
    """The manifest of the store at `folder`. Raises `LabelError` where there is none, or a damaged one."""
    path = folder / MANIFEST_NAME
    try:
        return StoreManifest.model_validate(json.loads(path.read_text(encoding="utf8")))
    except FileNotFoundError:
        raise LabelError(f"{folder}: no {MANIFEST_NAME}, so labelling has not ended; run instil label again") from None
    except ValueError as error:
        raise LabelError(f"{path}: damaged; delete the folder and run instil label again") from error


class LabelStore:
    """Labels by record id. Shards are read once, on first use, after their checksum is verified."""

    def __init__(self, folder: Path, *, expect: Mapping[str, str], temperature: float) -> None:
        """Open the store at `folder`. Raises `LabelError` that names both values where `expect` (role -> fingerprint)
        or `temperature` differ from the store's."""
        self.folder = folder
        self.manifest = read_store_manifest(folder)
        self._refuse_mismatch(expect, temperature)
        self._places: dict[str, tuple[Shard, int]] = {}
        for entry in self.manifest.shards:
            shard = self._read(entry)
            self._places.update({record: (shard, number) for number, record in enumerate(shard.ids)})

    def _refuse_mismatch(self, expect: Mapping[str, str], temperature: float) -> None:
        for role, value in expect.items():
            if (stored := self.manifest.made_from.get(role)) != value:
                raise LabelError(
                    f"{self.folder}: made from {role} {stored}, but this run has {role} {value};"
                    " label again, or use what the labels were made from"
                )
        if (stored_at := self.manifest.codec.temperature) != temperature:
            raise LabelError(
                f"{self.folder}: recorded at temperature {stored_at:g}, but the recipe asks for {temperature:g};"
                " label again or change distil.temperature"
            )

    def _read(self, entry: ShardEntry) -> Shard:
        path = self.folder / entry.file
        if not path.is_file():
            raise LabelError(f"{path}: missing; run instil label again, which makes only what is missing")
        if (found := hash_file(path)) != entry.sha256:
            raise LabelError(
                f"{path}: damaged (checksum {found[:12]}, the manifest has {entry.sha256[:12]});"
                " delete it and run instil label again, which makes only what is missing"
            )
        return unpack(path)

    def __contains__(self, record: str) -> bool:
        return record in self._places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, examples: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Head ids (int64) and probabilities (fp32), both `(N, K)`, of the N rows of `examples`, in their order.

        The tail is 1 - the probabilities' sum. Raises `LabelError` for an example without labels, or whose prompt or
        target tokens are not those that were labelled.
        """
        parts = [self._rows(example) for example in examples]
        ids_NK = np.concatenate([ids_RK for ids_RK, _ in parts]).astype(np.int64)
        probs_NK = np.concatenate([probs_RK for _, probs_RK in parts])
        return torch.from_numpy(ids_NK), torch.from_numpy(probs_NK)

    def _rows(self, example: Encoded) -> tuple[NDArray[np.unsignedinteger], NDArray[np.float32]]:
        place = self._places.get(example.id)
        if place is None:
            raise LabelError(f"{self.folder}: no labels for record {example.id!r}; run instil label on this data")
        shard, number = place
        rows = shard.rows_of(number)
        if tuple(shard.target_R[rows].tolist()) != example.target_ids:
            raise LabelError(
                f"{self.folder}: record {example.id!r} was labelled with another target"
                f" ({rows.stop - rows.start} tokens, now {len(example.target_ids)}); run instil label on this data"
            )
        if int(shard.prompts_E[number]) != hash_prompt(example.prompt_ids):
            raise LabelError(
                f"{self.folder}: record {example.id!r} was labelled behind another prompt or source"
                f" (now {len(example.prompt_ids)} tokens); run instil label on this data"
            )
        return shard.head_ids_RK[rows], restore_probs(shard.head_probs_RK[rows], shard.tail_R[rows])
