"""How one shard of labels looks on disk: a safetensors file with plain arrays, readable by anything.

Shape letters: R rows of the shard, K head entries, E examples of the shard.

    ids_RK      head ids, falling by probability; uint16 where the vocabulary allows, else uint32
    probs_RK    their probabilities at the store's temperature; float16
    tail_R      the mass of all other ids; float16
    target_R    the token that the row predicts, so that a reader can prove its rows are these rows
    starts_E    first row of each example
    prompts_E   hash of the token ids that the teacher read before them
Each number has float16's error, but a row's largest is read as 1 minus the others, so that rows add up to 1 and a
tail of 1e-5 beside a head of 0.99999 keeps its own three digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from instil.core.errors import LabelError

_NAMES = ("ids", "probs", "tail", "targets", "starts", "prompts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Decoded arrays of one shard; `ids` are the record ids of its E examples."""

    ids: tuple[str, ...]
    head_ids_RK: NDArray[np.unsignedinteger]
    head_probs_RK: NDArray[np.float16]
    tail_R: NDArray[np.float16]
    target_R: NDArray[np.unsignedinteger]
    starts_E: NDArray[np.int64]
    prompts_E: NDArray[np.uint64]

    def rows_of(self, number: int) -> slice:
        """Rows of the shard's example `number`."""
        end = self.starts_E[number + 1] if number + 1 < len(self.ids) else len(self.target_R)
        return slice(int(self.starts_E[number]), int(end))


def id_type(vocabulary: int) -> type[np.unsignedinteger]:
    """The smallest type that holds every id below `vocabulary`."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


def restore_probs(probs_RK: NDArray[np.float16], tail_R: NDArray[np.float16]) -> NDArray[np.float32]:
    """Head probabilities whose tail is 1 - their sum, from the rounded ones; shape `(R, K)`."""
    cells_RC = np.concatenate([probs_RK, tail_R[:, None]], axis=1).astype(np.float64)
    largest = np.arange(len(cells_RC)), cells_RC.argmax(axis=1)
    cells_RC[largest] += 1 - cells_RC.sum(axis=1)
    return cells_RC[:, :-1].astype(np.float32)


def hash_prompt(prompt_ids: Sequence[int]) -> int:
    """64 bits that tell one prompt from another."""
    return int.from_bytes(hashlib.blake2b(np.asarray(prompt_ids, np.uint32).tobytes(), digest_size=8).digest(), "big")


def pack(shard: Shard) -> bytes:
    """The bytes of a shard's file."""
    arrays = {
        "ids": shard.head_ids_RK,
        "probs": shard.head_probs_RK,
        "tail": shard.tail_R,
        "targets": shard.target_R,
        "starts": shard.starts_E,
        "prompts": shard.prompts_E,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(arrays, metadata={"records": json.dumps(shard.ids, ensure_ascii=False)})


def unpack(path: Path) -> Shard:
    """The shard at `path`. Raises `LabelError` when the file is not a whole shard."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in _NAMES}
            ids = tuple(json.loads(file.metadata()["records"]))
    except Exception as error:
        raise LabelError(f"{path}: not a whole label shard ({error}); delete it and run instil label again") from error
    return Shard(
        ids=ids, head_ids_RK=arrays["ids"], head_probs_RK=arrays["probs"], tail_R=arrays["tail"],
        target_R=arrays["targets"], starts_E=arrays["starts"], prompts_E=arrays["prompts"],
    )  # fmt: skip
