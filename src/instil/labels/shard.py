"""One shard of labels on disk: a safetensors file of packed columns, memory-mapped, any example readable by itself.

Shape letters: R rows of the shard, E examples, H head entries and S drawn ids of all rows together.

    rows        rows of each example; uint16 where that holds them, else uint32, (E,)
    targets     hash of the target tokens that the rows predict; uint16, (E,)
    prompts     hash of the tokens that the teacher read before them; uint32, (E,)
    records     the record ids: JSON, deflated
and for each recorded temperature, t0, t1, ..., bit-packed (bits.py):
    t0.heads    number of head entries of each row
    t0.draws    number of drawn ids of each row
    t0.masses   probabilities of the head's ids in the codec's units, row after row, falling
    t0.common   the ids that have a short number (ids.py)
    t0.ids.*    the head's ids
    t0.drawn.*  drawn ids, row after row
The metadata, JSON under `made`, holds `plan`, a fingerprint of all that the shard was made from, `sums`, what was
measured on the way, and `common`, the number of short ids at each temperature.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from instil.core.errors import LabelError, storage_error
from instil.labels.bits import bytes_for, pack_bits, unpack_bits
from instil.labels.codec import Codec, rectangle
from instil.labels.ids import IdStream, common_ids, pack_ids, ranges

_TYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Labels of R rows at one temperature, unpacked: counts `(R,)`, and the entries of all rows one after the other."""

    heads_R: NDArray[np.uint32]
    draws_R: NDArray[np.uint32]
    ids_H: NDArray[np.uint32]
    masses_H: NDArray[np.uint32]
    drawn_S: NDArray[np.uint32]


def hash_tokens(ids: Sequence[int], size: int = 4) -> int:
    """`size` bytes that tell one sequence of tokens from another."""
    return int.from_bytes(hashlib.blake2b(np.asarray(ids, np.uint32).tobytes(), digest_size=size).digest(), "little")


def hash_target(ids: Sequence[int]) -> int:
    """16 bits are enough for a target: its number of tokens is compared too."""
    return hash_tokens(ids, 2)


def pack_shard(
    codec: Codec,
    records: Sequence[str],
    rows_E: Sequence[int],
    hashes: tuple[Sequence[int], Sequence[int]],
    columns: Sequence[Columns],
    *,
    plan: str,
    sums: Mapping[str, float],
) -> bytes:
    """The bytes of a shard. `hashes`: of the examples' prompts and targets. `columns`: one for each temperature."""
    arrays: dict[str, NDArray[Any]] = {
        "rows": np.asarray(rows_E, np.uint16 if max(rows_E) < 1 << 16 else np.uint32),
        "prompts": np.asarray(hashes[0], np.uint32),
        "targets": np.asarray(hashes[1], np.uint16),
        "records": np.frombuffer(zlib.compress(json.dumps(list(records), ensure_ascii=False).encode()), np.uint8),
    }
    listed = []
    for number, column in enumerate(columns):
        common = common_ids(np.concatenate([column.ids_H, column.drawn_S]), codec.id_bits)
        packed = {
            "heads": pack_bits(column.heads_R, codec.head_count_bits),
            "draws": pack_bits(column.draws_R, codec.drawn_count_bits),
            "masses": pack_bits(column.masses_H, codec.digits),
            "common": pack_bits(common, codec.id_bits),
            **pack_ids("ids", column.ids_H, common, codec.id_bits),
            **pack_ids("drawn", column.drawn_S, common, codec.id_bits),
        }
        listed.append(len(common))
        arrays |= {f"t{number}.{name}": array for name, array in packed.items()}
    # One entry, since safetensors writes several in any order and equal shards are to be equal files.
    made = {"plan": plan, "sums": dict(sums), "common": listed}
    return save(arrays, metadata={"made": json.dumps(made, sort_keys=True)})


class Shard:
    """A shard file, open for reading; nothing but its index is held in memory."""

    def __init__(self, path: Path, codec: Codec) -> None:
        """Raises `LabelError` when `path` is not a whole shard of `codec`."""
        self.path = path
        self.codec = codec
        try:
            self._file = _identity(path)
            arrays, metadata = _mapped(self._file)
            self.rows_E = arrays["rows"].astype(np.int64)
            self.prompts_E = np.array(arrays["prompts"])
            self.targets_E = np.array(arrays["targets"])
            self.records: tuple[str, ...] = tuple(json.loads(zlib.decompress(arrays["records"].tobytes())))
            made = json.loads(metadata["made"])
            self.plan: str = made["plan"]
            self.sums: dict[str, float] = made["sums"]
            self._listed: list[int] = made["common"]
            self.starts_E = np.concatenate([[0], self.rows_E.cumsum()])
            self._require_lengths()
        except OSError as error:
            raise storage_error(error, path) from error
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise LabelError(f"{path}: not a whole label shard ({error}); run instil label again") from error

    @property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return _mapped(self._file)[0]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.starts_E[-1])

    def _require_lengths(self) -> None:
        lengths = {len(self.records), len(self.rows_E), len(self.prompts_E), len(self.targets_E)}
        if len(lengths) != 1:
            raise ValueError(f"columns of {sorted(lengths)} examples")
        for number in range(len(self.codec.temperatures)):
            wanted = bytes_for(self.rows, self.codec.head_count_bits)
            if (found := len(self._arrays[f"t{number}.heads"])) != wanted:
                raise ValueError(f"t{number}.heads has {found} bytes for {wanted}")

    def _temperature(self, number: int) -> dict[str, NDArray[Any]]:
        prefix = f"t{number}."
        return {name.removeprefix(prefix): array for name, array in self._arrays.items() if name.startswith(prefix)}

    @cached_property
    def _streams(self) -> list[tuple[NDArray[np.int64], IdStream, IdStream]]:
        """For each temperature, the first head entry of each example, its ids and its drawn ids."""
        every = np.arange(self.rows)
        found = []
        for number in range(len(self.codec.temperatures)):
            arrays = self._temperature(number)
            first, drawn = (
                np.concatenate([[0], count_R.cumsum(dtype=np.int64)])[self.starts_E]
                for count_R in self._counts(arrays, every)
            )
            bits = self.codec.id_bits
            common = unpack_bits(arrays["common"], bits, np.arange(self._listed[number]))
            found.append(
                (first, IdStream("ids", arrays, common, bits, first), IdStream("drawn", arrays, common, bits, drawn))
            )
        return found

    def _counts(
        self, arrays: dict[str, NDArray[Any]], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        heads = unpack_bits(arrays["heads"], self.codec.head_count_bits, rows)
        return heads, unpack_bits(arrays["draws"], self.codec.drawn_count_bits, rows)

    def read(
        self, examples: Sequence[int], number: int, *, drawn: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and probabilities `(R, K)` of the rows of these examples, in their order, at temperature `number`."""
        columns = self.columns(examples, number)
        return rectangle(
            self.codec, columns.heads_R, columns.draws_R, (columns.ids_H, columns.masses_H),
            columns.drawn_S if drawn else None,
        )  # fmt: skip

    def columns(self, examples: Sequence[int], number: int) -> Columns:
        """What is stored of the rows of these examples, in their order, at temperature `number`."""
        chosen = np.asarray(examples, np.int64)
        arrays = self._temperature(number)
        first, ids, drawn = self._streams[number]
        heads_R, draws_R = self._counts(arrays, ranges(self.starts_E[chosen], self.starts_E[chosen + 1]))
        heads = ranges(first[chosen], first[chosen + 1])
        return Columns(
            heads_R=heads_R, draws_R=draws_R, ids_H=ids.read(arrays, chosen),
            masses_H=unpack_bits(arrays["masses"], self.codec.digits, heads), drawn_S=drawn.read(arrays, chosen),
        )  # fmt: skip


_File = tuple[Path, int, int]


def _identity(path: Path) -> _File:
    """The file that has this name now; another one may take its name later."""
    status = path.stat()
    return path, status.st_ino, status.st_mtime_ns


# A map holds its file open, and a process may hold only so many.
@lru_cache(maxsize=128)
def _mapped(file: _File) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a safetensors file, memory-mapped, and its metadata."""
    whole = np.memmap(file[0], np.uint8, "r")
    size = int(whole[:8].view("<u8")[0])
    header = json.loads(whole[8 : 8 + size].tobytes())
    metadata = header.pop("__metadata__")
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        part = whole[8 + size + start : 8 + size + end]
        if len(part) != end - start:
            raise ValueError(f"{name} is cut short")
        # A column may begin anywhere; only bytes can be read from there without a copy.
        arrays[name] = part if entry["dtype"] == "U8" else np.frombuffer(part.tobytes(), _TYPES[entry["dtype"]])
    return arrays, metadata
