"""How fast are stored labels read?

    python -m benchmarks.reader [--json] [--quick]

A shard of 200,000 rows with 12 entries each over 151,936 ids, as frequent as words are, is unpacked on one thread, in
reads of 2,000 and of 20,000 rows. Keys: `rows_per_s` for each, and the shard's `bytes_per_row`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from instil.labels.codec import Codec
from instil.labels.shard import Columns, Shard, pack_shard

VOCABULARY, ENTRIES, ROWS, ROWS_AN_EXAMPLE = 151_936, 12, 200_000, 100


def shard_bytes(codec: Codec) -> bytes:
    """A shard of heads of 12 ids, whose frequencies fall as those of words do."""
    generator = np.random.default_rng(0)
    weight = 1 / np.arange(1, 60_001) ** 1.05
    ids = generator.choice(len(weight), ROWS * ENTRIES, p=weight / weight.sum()).astype(np.uint32)
    masses = generator.integers(1, codec.unit // ENTRIES, ROWS * ENTRIES).astype(np.uint32)
    columns = Columns(
        heads_R=np.full(ROWS, ENTRIES, np.uint32), draws_R=np.zeros(ROWS, np.uint32), ids_H=ids, masses_H=masses,
        drawn_S=np.zeros(0, np.uint32),
    )  # fmt: skip
    examples = ROWS // ROWS_AN_EXAMPLE
    names, counts = [str(number) for number in range(examples)], [ROWS_AN_EXAMPLE] * examples
    return pack_shard(codec, names, counts, ([0] * examples, [0] * examples), [columns], plan="", sums={})


def speed(shard: Shard, rows: int, seconds: float) -> float:
    """Rows a second of processor time, in reads of so many rows anywhere in the shard."""
    dice = np.random.default_rng(0)
    read, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        shard.read(dice.choice(ROWS // ROWS_AN_EXAMPLE, rows // ROWS_AN_EXAMPLE, replace=False).tolist(), 0)
        read += rows
    return read / (time.process_time() - started)


def main() -> None:
    """Print the speeds, or with --json one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a second for each size")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec = Codec.top(ENTRIES, VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.safetensors"
        path.write_bytes(shard_bytes(codec))
        shard = Shard(path, codec)
        speed(shard, 2000, 0.2)
        found = {str(rows): round(speed(shard, rows, 1 if options.quick else 5)) for rows in (2000, 20_000)}
        size = round(path.stat().st_size / ROWS, 2)
    if options.json:
        print(json.dumps({"rows_per_s": found, "bytes_per_row": size}))
        return
    for rows, each in found.items():
        print(f"reads of {int(rows):>6,} rows: {each:>9,} rows a second of one core, {size} bytes a row")


if __name__ == "__main__":
    main()
