"""What serving costs: teacher and student on transformers and on their best engines, alone and behind the server.

    python -m benchmarks.serving RUN [--texts 96] [--rounds 5] [--threads N] [--exports FOLDER] [--quick] [--json]

`RUN` is the folder of a finished run, such as runs/quickstart. Engines are timed in turns on the texts of its test set;
the server and the bare engine take the same batches of 16, so that their ratio is what HTTP, queue and scheduling cost.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving_factors import taken_apart
from benchmarks.serving_parts import (
    STUDENT,
    Served,
    exports_of,
    one_vocabulary,
    quality,
    served,
    sources_of,
    speculation,
    stage_of,
)
from instil.core import console, units

LEVELS = (1, 4, 16)
_PROBES, _SPECULATED, _FACTORED = 50, 32, 24
"""Most texts on which exports are compared, the teacher is asked with a draft, and the speed is taken apart."""
KEYS = (
    "server_over_engine_c16", "speedup_over_transformers_fp32", "size_ratio", "rougeL_change", "speculative_speedup",
    "speculative_acceptance",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one system at one number of clients."""

    p50_ms: float
    p95_ms: float
    tokens_per_second: float
    requests_per_second: float


def speed_of(system: Served, sources: Sequence[str], clients: int) -> Speed:
    """Of `system` behind its server, where `clients` wait at a time."""
    found = system.asked(sources, clients)
    times = sorted(1000 * each for each in found.seconds)
    return Speed(
        statistics.median(times), times[max(0, round(0.95 * len(times)) - 1)], sum(found.tokens) / found.wall_s,
        len(times) / found.wall_s,
    )  # fmt: skip


def overhead(system: Served, sources: Sequence[str], rounds: int) -> float:
    """The server's throughput as a share of the bare engine's, 16 at a time; the median over rounds in turns."""
    shares = []
    for number in range(rounds):
        # Texts that differ by a space, in turns, so that neither finds its prompts in an engine's own cache.
        texts = [[source + " " * (2 * number + side) for source in sources] for side in (0, 1)]
        bare = system.bare(texts[number % 2], 16)
        behind = speed_of(system, texts[1 - number % 2], 16).requests_per_second
        shares.append(behind / bare)
    return statistics.median(shares)


def measure(run: Path, count: int, rounds: int, threads: int | None, scratch: Path) -> dict[str, Any]:
    """All numbers, of `count` texts; the exported models stay in `scratch`."""
    sources = sources_of(run, count)
    found: dict[str, Any] = {"n": count, "rounds": rounds, "threads": threads, "systems": {}}
    places, found["refused"] = exports_of(run, scratch, min(count, _PROBES))
    for name, place in places.items():
        console.say(f"  {name}")
        found["systems"][name] = _system(name, place, sources, rounds, threads)
    found["quality"] = quality(run, places, count)
    # A draft has its teacher's tokens and its engine.
    able = {"teacher, gguf q8_0", "student, gguf q8_0"} <= set(places) and one_vocabulary(run, scratch)
    found["speculation"] = speculation(run, scratch, sources[:_SPECULATED], threads) if able else {}
    found |= _keys(found)
    found["in_turns"] = taken_apart(run, scratch, places, found["best"], sources[:_FACTORED], threads)
    found["speedup_over_transformers_fp32"] = found["in_turns"]["speedup"]
    return found


def _system(name: str, place: Any, sources: Sequence[str], rounds: int, threads: int | None) -> dict[str, Any]:
    with served(name, place, threads) as system:
        speeds = {str(level): _as_dict(speed_of(system, sources, level)) for level in LEVELS}
        found = {"engine": system.engine, "bytes": system.bytes, "memory": system.memory, "clients": speeds}
        return found | {"server_over_engine_c16": overhead(system, sources, rounds)}


def _as_dict(speed: Speed) -> dict[str, float]:
    return {name: round(getattr(speed, name), 3) for name in Speed.__dataclass_fields__}


def _keys(found: dict[str, Any]) -> dict[str, Any]:
    """What is asked of serving, of the student on the engine that answers it fastest."""
    systems, scores, ahead = found["systems"], found["quality"], found["speculation"].get("distilled", {})
    name = min(
        (name for name in systems if name.startswith("student,") and "transformers" not in name),
        key=lambda name: systems[name]["clients"]["1"]["p50_ms"], default=STUDENT,
    )  # fmt: skip
    best = systems[name]
    return {
        "best": name,
        "server_over_engine_c16": best["server_over_engine_c16"],
        "size_ratio": systems[STUDENT]["bytes"] / best["bytes"],
        "rougeL_change": scores[name] / scores[STUDENT] - 1,
        "speculative_speedup": ahead.get("speedup"),
        "speculative_acceptance": ahead.get("acceptance"),
    }


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{'system':<30}{'clients':>8}{'p50 ms':>9}{'p95 ms':>9}{'tokens/s':>10}{'weights':>10}{'memory':>10}"]
    for name, system in found["systems"].items():
        for level, speed in system["clients"].items():
            sizes = [units.size(system[key]) if system[key] else "-" for key in ("bytes", "memory")]
            numbers = "".join(f"{speed[key]:>{width}.1f}" for key, width in _COLUMNS)
            lines.append(f"{name:<30}{level:>8}{numbers}{sizes[0]:>10}{sizes[1]:>10}")
    lines += [f"{name:<30} refused: {why}" for name, why in found["refused"].items()]
    lines += [f"{key:<34}{'-' if found[key] is None else f'{found[key]:.3f}'}" for key in KEYS]
    turns = found["in_turns"]
    product = " x ".join(f"{name} {value:.2f}" for name, value in turns["factors"].items())
    return [
        *lines,
        f"its speed, in turns: {turns['speedup']:.2f} ({turns['range'][0]:.2f} to {turns['range'][1]:.2f}) = {product}",
        f"best: {found['best']}; n = {found['n']} texts, {found['rounds']} rounds; ROUGE-L: {found['quality']}",
    ]


_COLUMNS = (("p50_ms", 9), ("p95_ms", 9), ("tokens_per_second", 10))


def main() -> None:
    """Reads the options, prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/quickstart"))
    parser.add_argument("--quick", action="store_true", help="16 texts, one round: whether it works")
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5, help="of the server against the bare engine")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--exports", type=Path, help="where exported models are kept, and taken from, between runs")
    parser.add_argument("--threads", type=int, help="of each engine; as many as it likes unless given")
    options = parser.parse_args()
    count, rounds = (16, 1) if options.quick else (options.texts, options.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        keep = options.exports / stage_of(options.run, "student").name if options.exports else Path(scratch)
        found = measure(options.run, count, rounds, options.threads, keep)
    if options.json:
        console.emit_json(found)
    else:
        print("\n".join(_lines(found)))


if __name__ == "__main__":
    main()
