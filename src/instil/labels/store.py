"""A label store: shards, and a manifest that says whose labels they are. Reading refuses what does not match.

store/
    shard-00000.safetensors ...     512 examples each
    manifest.json                   written last: fingerprints, codec, checksums
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from instil.core import publish
from instil.core.errors import LabelError
from instil.core.fingerprint import fingerprint, hash_file
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.shard import Shard, hash_target, hash_tokens

MANIFEST_NAME = "manifest.json"
FORMAT = 3
EXAMPLES_A_SHARD = 512


def shard_name(number: int) -> str:
    """The file of shard `number`, from 0 on."""
    return f"shard-{number:05d}.safetensors"


class ShardEntry(BaseModel):
    """One shard file and its checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    examples: int
    rows: int


class StoreManifest(BaseModel):
    """What stands in a store's manifest. `made_from` maps teacher and prompt to their fingerprints, `details` says one
    by one what these are of (weights, adapter, tokenizer, dtype, ...); `part` is set where the store holds only some of
    the shards, as "3/16". `examples` and `whole` are the number and fingerprint of all examples that were to be
    labelled, in all parts; `measured` is what `writer.measured` gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    made_from: dict[str, str]
    details: dict[str, str] = {}
    codec: Codec
    part: str | None = None
    examples: int
    whole: str
    shards: tuple[ShardEntry, ...]
    measured: dict[str, float]

    @property
    def mark(self) -> str:
        """The fingerprint of all that labels depend on."""
        return fingerprint(self.model_dump(mode="json", exclude={"details"}))

    def write(self, folder: Path) -> None:
        """Write the manifest into `folder`, in one step."""
        publish.write_text(folder / MANIFEST_NAME, self.model_dump_json(indent=2) + "\n")


def read_store_manifest(folder: Path) -> StoreManifest:
    """The manifest of the store at `folder`. Raises `LabelError` where there is none, or one that cannot be read."""
    path = folder / MANIFEST_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf8"))
        if isinstance(raw, dict) and "stage" in raw:
            raise LabelError(f"{folder}: the folder of a stage, not a label store; name that of a label stage")
        if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
            raise LabelError(f"{path}: format {raw['format']}, but this instil reads format {FORMAT}; label again")
        return StoreManifest.model_validate(raw)
    except (FileNotFoundError, NotADirectoryError):
        raise LabelError(f"{folder}: {_lack(folder)}") from None
    except LabelError:
        raise
    except ValueError as error:
        raise LabelError(f"{path}: damaged; delete the folder and run instil label again") from error


def _lack(folder: Path) -> str:
    """Why there is no manifest in `folder`, and what to do."""
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "no such folder"
        return f"{what}; name that of a label stage, such as runs/NAME/label-..."
    if labels := sorted(path.name for path in folder.glob("label-*") if path.is_dir()):
        return f"the folder of a run; name one of its label stages: {', '.join(labels)}"
    return f"no {MANIFEST_NAME}, so labelling has not ended; run instil label again"


def damage_of(folder: Path, entry: ShardEntry) -> str:
    """What is wrong with a shard's file, in a few words; empty when it is as it was written."""
    path = folder / entry.file
    if not path.is_file():
        return f"{path}: missing"
    if (found := hash_file(path)) != entry.sha256:
        return f"{path}: damaged (checksum {found[:12]}, the manifest has {entry.sha256[:12]})"
    return ""


def _named(role: str, stored: str | None, value: str, details: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs: those details that both know, or else the whole `role`."""
    differ = [name for name in details if name in now and now[name] != details[name]]
    pairs: list[tuple[str, str | None, str]] = [(name, details[name], now[name]) for name in differ]
    pairs = pairs or [(role, stored, value)]
    return ", ".join(f"{name} {was}, but this run has {name} {new}" for name, was, new in pairs)


class LabelStore:
    """Labels by record id, at one temperature. Checksums are verified on opening; rows are read when asked for."""

    def __init__(
        self, folder: Path, *, expect: Mapping[str, str], temperature: float, drawn: bool = True,
        details: Callable[[], Mapping[str, str]] = dict,
    ) -> None:  # fmt: skip
        """Open the store at `folder`. Raises `LabelError` that names both values where `expect` (role -> fingerprint)
        or `temperature` differ from the store's, and those of the `details` that differ. Without `drawn`, rows are
        their heads alone: what divergences over a partition need."""
        self.folder = folder
        self.manifest = read_store_manifest(folder)
        self.drawn = drawn
        self.temperature = temperature
        self._refuse_mismatch(expect, details)
        try:
            self.manifest.codec.at(temperature)
        except LabelError as error:
            raise LabelError(f"{folder}: {error}") from None
        self._shards = [self._open(entry) for entry in self.manifest.shards]
        self._places = {
            record: (number, place)
            for number, shard in enumerate(self._shards)
            for place, record in enumerate(shard.records)
        }

    def _refuse_mismatch(self, expect: Mapping[str, str], details: Callable[[], Mapping[str, str]]) -> None:
        if self.manifest.part:
            raise LabelError(
                f"{self.folder}: part {self.manifest.part} of a store; put them together: instil labels merge"
            )
        for role, value in expect.items():
            if (stored := self.manifest.made_from.get(role)) != value:
                raise LabelError(
                    f"{self.folder}: made from {_named(role, stored, value, self.manifest.details, details())};"
                    " label again, or use what the labels were made from"
                )

    def _open(self, entry: ShardEntry) -> Shard:
        if damage := damage_of(self.folder, entry):
            raise LabelError(f"{damage}; run instil label again, which makes only what is missing")
        return Shard(self.folder / entry.file, self.manifest.codec)

    def __contains__(self, record: str) -> bool:
        return record in self._places

    def __len__(self) -> int:
        return len(self._places)

    def read(
        self, examples: Sequence[Encoded], temperature: float | None = None
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Ids (int64; -1 where unused) and probabilities (fp32) of the N rows of `examples`, in their order, at
        another recorded `temperature` where one is given.

        What is missing from 1 is the tail's. Raises `LabelError` for an example without labels, or whose prompt or
        target tokens are not those that were labelled.
        """
        at = self.manifest.codec.at(self.temperature if temperature is None else temperature)
        by_shard: dict[int, list[int]] = {}
        for position, example in enumerate(examples):
            by_shard.setdefault(self._place(example)[0], []).append(position)
        starts = np.concatenate([[0], np.cumsum([len(example.target_ids) for example in examples])]).astype(np.int64)
        parts = []
        for number, positions in by_shard.items():
            places = [self._places[examples[position].id][1] for position in positions]
            found = self._shards[number].read(places, at, drawn=self.drawn)
            rows = np.concatenate([np.arange(starts[position], starts[position + 1]) for position in positions])
            parts.append((rows, *found))
        widest = max((ids.shape[1] for _, ids, _ in parts), default=0)
        ids_NK = torch.full((int(starts[-1]), widest), -1)
        probs_NK = torch.zeros((int(starts[-1]), widest))
        for rows, ids, probs in parts:
            ids_NK[rows, : ids.shape[1]] = torch.from_numpy(ids)
            probs_NK[rows, : ids.shape[1]] = torch.from_numpy(probs)
        return ids_NK, probs_NK

    def _place(self, example: Encoded) -> tuple[int, int]:
        place = self._places.get(example.id)
        if place is None:
            raise LabelError(f"{self.folder}: no labels for record {example.id!r}; run instil label on this data")
        shard, number = self._shards[place[0]], place[1]
        found = int(shard.rows_E[number]), int(shard.targets_E[number])
        if found != (len(example.target_ids), hash_target(example.target_ids)):
            raise LabelError(
                f"{self.folder}: record {example.id!r} was labelled with another target"
                f" ({shard.rows_E[number]} tokens, now {len(example.target_ids)}); run instil label on this data"
            )
        if int(shard.prompts_E[number]) != hash_tokens(example.prompt_ids):
            raise LabelError(
                f"{self.folder}: record {example.id!r} was labelled behind another prompt or source"
                f" (now {len(example.prompt_ids)} tokens); run instil label on this data"
            )
        return place
