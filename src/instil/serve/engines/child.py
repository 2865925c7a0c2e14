"""An engine that is a server of its own, with an OpenAI-compatible interface: started, watched, started again.

vLLM is the one it is for: a process that owns the GPU, with paged attention, continuous batching and speculation.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from instil.core import console
from instil.core.errors import ModelError
from instil.serve.engines.base import FAULT, Engine, EngineFacts
from instil.serve.jobs import Ended, Job, ServeError

_START_S = 900.0
_END_S = 30.0
_LOOK_EVERY_S = 0.2
_MOST_STARTS = 5
"""A child that dies so often within an hour is not started again."""
_HOUR_S = 3600.0
_PR_SET_PDEATHSIG = 1
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_GPU_SHARE = 0.9
"""Of the GPU's memory that all children together take."""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def vllm_command(
    ref: str, port: int, *, context: int, models: int = 1, draft: str | None = None, draft_tokens: int
) -> list[str]:  # fmt: skip
    """How vLLM is started for one of `models` that share the GPU; `draft` guesses ahead.

    The model's own habits, such as a penalty for repetition, are left aside, as every engine does.
    """
    command = ["vllm", "serve", ref, "--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(context)]
    command += ["--served-model-name", CHILD_MODEL, "--generation-config", "vllm"]
    command += ["--gpu-memory-utilization", f"{_GPU_SHARE / models:.3f}"]
    if draft is not None:
        speculative = {"model": draft, "num_speculative_tokens": draft_tokens, "method": "draft_model"}
        command += ["--speculative-config", json.dumps(speculative)]
    return command


def visible_gpu(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What a child finds in its environment beside ours, so that it sees the GPU of `device` alone: "cuda:1" is the
    second of those that this process sees, "cuda" leaves all in sight."""
    number = device.partition(":")[2]
    if not number:
        return {}
    seen = [name for name in environment.get(_VISIBLE, "").split(",") if name]
    if seen and int(number) >= len(seen):
        raise ModelError(f"{device}: only {len(seen)} GPUs are visible ({_VISIBLE}={environment[_VISIBLE]})")
    return {_VISIBLE: seen[int(number)] if seen else number}


CHILD_MODEL = "model"


class ChildServer:
    """The process of `command`, which answers on `port`; a thread starts it again when it dies.

    `health`: the path that tells whether it is well. On Linux it ends with this process, however that ends. `lost`:
    it died too often, or cannot be started, and is left. `environment`: what it finds there beside this process's own.
    """

    def __init__(
        self, command: Sequence[str], port: int, *, health: str = "/health", start_s: float = _START_S,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.command = list(command)
        self.environment = dict(environment or {})
        self.url = f"http://127.0.0.1:{port}"
        self.health = health
        self._starts: list[float] = []
        self._ending = False
        self.lost = False
        self._changing = threading.Lock()
        # Linux ends a child with the thread that began it, so one that lasts begins them all.
        self._starter = ThreadPoolExecutor(1, "child-start")
        self._process = self._start()
        try:
            self._wait_until_ready(start_s)
        except BaseException:
            self.close()
            raise
        self._watcher = threading.Thread(target=self._watch, name="child-watch", daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        self._starts.append(time.monotonic())
        try:
            return self._starter.submit(_begin, self.command, self.environment).result()
        except OSError as error:
            raise ModelError(f"{self.command[0]} cannot be started ({error.strerror}); install it first") from error

    def _wait_until_ready(self, limit_s: float) -> None:
        until = time.monotonic() + limit_s
        while not self.answers():
            if (code := self._process.poll()) is not None:
                raise ModelError(f"{self.command[0]} ended with code {code} while it started; see its lines above")
            if time.monotonic() > until:
                raise ModelError(f"{self.command[0]} did not answer within {limit_s:.0f} s; see its lines above")
            time.sleep(_LOOK_EVERY_S)

    def answers(self) -> bool:
        """Whether it says that it is well."""
        import httpx

        try:
            return httpx.get(self.url + self.health).is_success
        except httpx.HTTPError:
            return False

    def _watch(self) -> None:
        while not (self._ending or self.lost):
            time.sleep(_LOOK_EVERY_S)
            with self._changing:  # Nothing is started once `close` has begun.
                if not self._ending and (code := self._process.poll()) is not None:
                    self._restart(code)

    def _restart(self, code: int) -> None:
        self._starts = [start for start in self._starts if time.monotonic() - start < _HOUR_S]
        if len(self._starts) >= _MOST_STARTS:
            console.say(f"{self.command[0]} died {len(self._starts)} times within an hour; not started again")
            self.lost = True
            return
        console.say(f"{self.command[0]} ended with code {code}; starting it again")
        try:
            self._process = self._start()
        except ModelError as error:
            console.say(str(error))
            self.lost = True

    def close(self) -> None:
        """End the process, gently first."""
        with self._changing:
            self._ending = True
        self._end()
        self._starter.shutdown()

    def _end(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
            return
        self._process.kill()


def _begin(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # A session of its own, so that Ctrl-C does not reach it before the open requests are answered. What it runs first
    # is two system calls, which no lock of another thread can hold up.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, env=os.environ | environment,
        preexec_fn=_ends_with_parent(),  # noqa: PLW1509
    )  # fmt: skip


def _ends_with_parent() -> Callable[[], object] | None:
    """What a child calls so that Linux sends it SIGTERM when the thread that began it ends."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # It ended in between, and no signal will come.
            os._exit(1)

    return arrange


class ChildEngine(Engine):
    """Jobs as requests to a `ChildServer`; as many at once as `workers`."""

    def __init__(self, server: ChildServer, tokenizer: Any, *, name: str, workers: int, positions: int) -> None:
        from openai import OpenAI

        self.server = server
        self.tokenizer = tokenizer
        self._client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        self.facts = EngineFacts(name, "decoder-only", 0, workers=workers, positions=positions)

    @property
    def lost(self) -> bool:
        """Whether the child is not started again."""
        return self.server.lost

    def run(self, jobs: Sequence[Job]) -> None:
        """Each job by itself: the child batches what its threads bring."""
        import openai

        for job in jobs:
            try:
                self._ask(job)
            except openai.APIStatusError as error:
                if error.status_code >= FAULT:
                    raise
                raise ServeError(f"{self.facts.name}: {error.message}", error.status_code) from error
            except openai.APIError as error:
                raise ServeError(f"{self.facts.name} does not answer", 503, retry_after=5) from error

    def _ask(self, job: Job) -> None:
        if job.limit:
            how: dict[str, Any] = {"temperature": job.sampling.temperature, "top_p": job.sampling.top_p}
            # The child cuts at the stops itself, so that it always comes to the chunk that counts the tokens.
            how |= {"seed": job.sampling.seed, "stop": list(job.stops), "stream_options": {"include_usage": True}}
            with self._client.completions.create(
                model=CHILD_MODEL, prompt=job.ids, max_tokens=job.limit, stream=True, **how
            ) as reply:
                self._hear(job, reply)
        job.finish()

    @staticmethod
    def _hear(job: Job, reply: Any) -> None:
        ended: Ended = "stop"
        for chunk in reply:
            for choice in chunk.choices:
                ended = choice.finish_reason or ended
                if choice.text:
                    job.take(choice.text)
            if job.cancelled:
                return
            if chunk.usage is not None:
                job.told(chunk.usage.completion_tokens, ended)

    def close(self) -> None:
        """End the child."""
        self._client.close()
        self.server.close()
