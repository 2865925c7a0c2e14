"""The `instil` command in processes of its own, as a user has it: own exit code, own streams, killed like any other.

Importing torch and transformers takes seconds, so one server imports them once and forks a process for each command.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 300.0
_IMPORTS = (
    "instil.run.cli", "instil.run.pipeline", "instil.run.report.report", "peft", "rouge_score.rouge_scorer",
    "torch._dynamo",
    "torch.utils.tensorboard", "transformers.generation.utils", "transformers.models.llama.modeling_llama",
    "transformers.models.t5.modeling_t5",
)  # fmt: skip
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code (negative for a signal) and what stood on its two streams."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The one line of its error; there must be one, and no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err, self.err
        return lines[0].removeprefix("error: ")


class Command:
    """`instil ARGUMENTS`, running in `cwd`.

    `most_bytes`: no file may become larger, as on a full disk. `plain_user`: file permissions hold even for root.
    """

    def __init__(self, *arguments: str, cwd: Path, most_bytes: int | None = None, plain_user: bool = False) -> None:
        self._streams = [cwd / f".{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        for path in self._streams:
            path.touch()
        self._status: int | None = None
        self.pid = _ask(
            start=list(arguments), cwd=str(cwd), streams=[str(path) for path in self._streams], most_bytes=most_bytes,
            plain_user=plain_user,
        )  # fmt: skip

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self._status is None:
            self._status = _ask(poll=self.pid)
        return self._status

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def err(self) -> str:
        """What stands on stderr so far."""
        return self._streams[1].read_text(encoding="utf8", errors="replace")

    def end(self, limit: float = LIMIT_SECONDS) -> Ended:
        """Wait for its end."""
        until = time.monotonic() + limit
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                self.signal(signal.SIGKILL)
                raise TimeoutError(f"still running after {limit} s:\n{self.err}")
            time.sleep(0.01)
        texts = [path.read_text(encoding="utf8") for path in self._streams]
        for path in self._streams:
            path.unlink()
        return Ended(code, *texts)


def instil(*arguments: str, cwd: Path, **limits: Any) -> Ended:
    """Run `instil ARGUMENTS` to its end."""
    return Command(*arguments, cwd=cwd, **limits).end()


@functools.cache
def _server() -> subprocess.Popen[str]:
    source = Path(__file__).resolve().parents[1] / "src"
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **_THREADS, "PYTHONPATH": str(source), "COLUMNS": "100"},
    )  # fmt: skip
    atexit.register(server.kill)
    return server


def _ask(**request: Any) -> Any:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps(request), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


def _serve() -> None:
    import importlib

    from instil.run.quiet import quiet_libraries

    quiet_libraries()
    for name in _IMPORTS:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_start(request) if "start" in request else _poll(request["poll"])), flush=True)


def _poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _start(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.chdir(request["cwd"])
    for number, path in ((0, os.devnull), *zip((1, 2), request["streams"], strict=True)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), number)
    _limit(request)
    # Whoever runs the tests in the background of a shell has SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from instil.run.cli import main

    try:
        main(request["start"])
    except SystemExit as end:
        # As at the end of Python, less the second that taking torch apart would cost.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))
    raise AssertionError("main returned")


def _limit(request: dict[str, Any]) -> None:
    if request["most_bytes"] is not None:
        import resource

        # Python ignores SIGXFSZ already, so writing fails like on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["most_bytes"], resource.RLIM_INFINITY))
    if request["plain_user"] and os.geteuid() == 0:
        import ctypes

        _drop_override(ctypes.CDLL(None, use_errno=True))


def _drop_override(libc: Any) -> None:
    """Take from this process the capabilities by which root may read and write where permissions forbid it."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for index in range(3):
        sets[index] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    _serve()
