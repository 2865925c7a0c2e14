"""Half an hour of a busy day in three minutes: twice what the server can do, every answer checked, memory watched.

    python -m benchmarks.soak MODEL [--seconds 180] [--json]

First each text is answered alone and its answer kept; capacity is what 16 clients get. Then requests arrive at twice
that rate, whether or not earlier ones are answered. Each must be answered as before, or with 429 and Retry-After.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving import speed_of
from benchmarks.serving_parts import MOST, Served, served
from instil.core import console, units
from instil.data.synopsis import load
from instil.run.servable import specs_of

_LOAD = 2.0
_QUEUE = 24
"""Short, so that it is soon full."""
_FLAT = 0.05
"""How much more memory may be taken at the end."""
_PAGE = 4096
_LOOK_EVERY_S = 1.0


def resident() -> int:
    """Bytes of this process in memory now; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


async def _ask(client: httpx.AsyncClient, url: str, text: str, known: Mapping[str, str], counts: Counter[str]) -> None:
    try:
        reply = await client.post(url, json={"inputs": [text], "max_new_tokens": MOST})
    except httpx.HTTPError as error:
        counts[f"lost ({type(error).__name__})"] += 1
        return
    if reply.status_code == 200:
        counts["answered" if reply.json()["outputs"][0] == known[text] else "mixed up"] += 1
    elif reply.status_code == 429 and int(reply.headers.get("retry-after", 0)) >= 1:
        counts["refused 429"] += 1
    else:
        counts[f"failed ({reply.status_code})"] += 1


async def storm(url: str, known: Mapping[str, str], rate: float, seconds: float) -> tuple[Counter[str], list[int]]:
    """`rate` requests a second for `seconds`; what became of them, and the process's memory each second."""
    counts: Counter[str] = Counter()
    memory: list[int] = []
    dice, texts = random.Random(0), list(known)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client, asyncio.TaskGroup() as group:
        begun = looked = time.monotonic()
        sent = 0
        while (now := time.monotonic()) - begun < seconds:
            while sent < (now - begun) * rate:
                group.create_task(_ask(client, f"{url}/v1/generate", dice.choice(texts), known, counts))
                sent += 1
            if now - looked >= _LOOK_EVERY_S:
                looked = now
                memory.append(resident())
            await asyncio.sleep(0.5 / rate)
    counts["sent"] = sent
    return counts, memory


def growth(memory: Sequence[int]) -> float:
    """How much more memory the last quarter took than the second, as a share: the first one warms up."""
    quarter = max(1, len(memory) // 4)
    before, after = memory[quarter : 2 * quarter] or memory, memory[-quarter:]
    return sum(after) / len(after) / (sum(before) / len(before)) - 1


def soak(system: Served, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """All of it."""
    known = {text: system.answer(text)[0] for text in texts}
    capacity = speed_of(system, [*texts, *texts], 16).requests_per_second
    console.say(f"  {system.engine}: {capacity:.1f} texts a second; sending {_LOAD * capacity:.1f}")
    counts, memory = asyncio.run(storm(system.url, known, _LOAD * capacity, seconds))
    good = counts["answered"] + counts["refused 429"]
    return {
        "engine": system.engine, "seconds": seconds, "capacity_per_s": capacity, **counts,
        "lost_or_wrong": counts["sent"] - good, "memory_growth": growth(memory), "memory_bytes": memory[-1:],
    }  # fmt: skip


def main() -> None:
    """Reads the options, prints the result; ends with 1 where an answer was lost or mixed up, nothing was refused, or
    memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a run, stage, export or file, as for instil serve")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    texts = list(dict.fromkeys(record.source[:1000] for record in load("test")[: options.texts]))
    with served("soak", specs_of([options.model])[0], options.threads, queue=_QUEUE) as system:
        found = soak(system, texts, options.seconds)
    if options.json:
        console.emit_json(found)
    else:
        told = ", ".join(f"{key} {value:,}" for key, value in found.items() if isinstance(value, int))
        size = units.size(found["memory_bytes"][0]) if found["memory_bytes"] else "unknown"
        print(f"{told}; memory {size}, {found['memory_growth']:+.1%} from the second quarter to the last")
    raise SystemExit(bool(found["lost_or_wrong"] or not found.get("refused 429") or found["memory_growth"] > _FLAT))


if __name__ == "__main__":
    main()
