"""Clients of a server in a process of their own, since what they do is no work of the server's.

The process reads a JSON line for each task and answers with one: `python -m benchmarks.clients`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx


@dataclass(frozen=True, slots=True)
class Answered:
    """What it took to have all sources answered: seconds and written tokens of each, and seconds of all together."""

    seconds: Sequence[float]
    tokens: Sequence[int]
    wall_s: float


@dataclass(frozen=True, slots=True)
class Clients:
    """The process."""

    process: subprocess.Popen[str]

    def ask(self, url: str, sources: Sequence[str], *, clients: int, most: int) -> Answered:
        """Each of `sources`, in texts of at most `most` tokens; so many `clients` wait at a time."""
        assert self.process.stdin and self.process.stdout
        task = {"url": url, "sources": list(sources), "clients": clients, "most": most}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("the clients' process ended; see its lines above")
        return Answered(**json.loads(line))


@contextmanager
def clients() -> Iterator[Clients]:
    """A process of clients, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.clients"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Clients(process)
    finally:
        process.terminate()
        process.communicate()


def answer(client: httpx.Client, url: str, source: str, most: int) -> tuple[str, int]:
    """The text for one source, and its tokens."""
    body = {"inputs": [source], "max_new_tokens": most, "deadline_s": 600}
    reply = client.post(f"{url}/v1/generate", json=body)
    reply.raise_for_status()
    found = reply.json()
    return found["outputs"][0], found["usage"]["completion_tokens"]


def _asked(client: httpx.Client, url: str, sources: Sequence[str], clients: int, most: int) -> dict[str, object]:
    def timed(source: str) -> tuple[float, int]:
        begun = time.perf_counter()
        _, tokens = answer(client, url, source, most)
        return time.perf_counter() - begun, tokens

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(timed, sources))
    wall_s = time.perf_counter() - begun
    return {"seconds": [each for each, _ in found], "tokens": [tokens for _, tokens in found], "wall_s": wall_s}


def main() -> None:
    """The process's work, until its input ends."""
    with httpx.Client(timeout=600, limits=httpx.Limits(max_connections=64)) as client:
        for line in sys.stdin:
            print(json.dumps(_asked(client, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
