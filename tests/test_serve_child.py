"""A child server ends with whoever began it, stays away once it is closed, and /readyz tells when it is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

import serving
import tiny
from instil.core.errors import ModelError
from instil.serve.config import Limits, ModelSpec
from instil.serve.engines.child import ChildEngine, ChildServer, free_port
from instil.serve.jobs import Job, ServeError
from instil.serve.metrics import Metrics
from instil.serve.models import ServedModel
from instil.serve.service import Service


def begin() -> ChildServer:
    """A child that answers soon: Python's own server of files."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    return ChildServer(command, port, health="/", start_s=60)


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether the process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_child_finds_what_it_is_given_beside_our_own_environment(tmp_path: Path) -> None:
    port, told = free_port(), tmp_path / "told"
    serve = f"import os, runpy; open({str(told)!r}, 'w').write(os.environ['GIVEN'] + os.environ['PATH'][:1])"
    command = [sys.executable, "-c", f"{serve}; runpy.run_module('http.server', run_name='__main__')", str(port)]
    server = ChildServer(command, port, health="/", start_s=60, environment={"GIVEN": "1"})
    try:
        assert told.read_text() == "1" + os.environ["PATH"][:1]
    finally:
        server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parents")
def test_a_child_ends_with_a_parent_that_is_killed_while_it_loads() -> None:
    load = "from instil.serve.engines.child import ChildServer; ChildServer(['sleep', '600'], 1)"
    parent = subprocess.Popen([sys.executable, "-c", load])
    children: list[int] = []

    def began() -> bool:
        found = [path.read_text().split() for path in Path(f"/proc/{parent.pid}/task").glob("*/children")]
        children[:] = [int(pid) for pids in found for pid in pids]
        return any(Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00" for pid in children)

    wait(began)
    parent.send_signal(signal.SIGTERM)
    parent.wait(60)
    wait(lambda: gone(children[0]))


def test_a_child_that_is_closed_is_not_begun_again() -> None:
    server = begin()
    os.kill(server.pid, signal.SIGKILL)
    server.close()
    time.sleep(0.5)
    assert not server.answers() and not server.lost


def test_a_child_that_dies_again_and_again_is_lost_and_the_server_not_ready(tmp_path: Path) -> None:
    spec = ModelSpec(name="m", ref=str(serving.write_model(tmp_path / "m")))
    with serving.running(serving.config_of(spec)) as running:
        engine = ChildEngine(begin(), tiny.tiny_tokenizer("decoder-only"), name="child", workers=1, positions=64)
        child = ServedModel(spec.model_copy(update={"name": "child"}), engine, Limits(), running.service.metrics)
        running.service.models["child"] = child
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        while not engine.lost:
            pid = engine.server.pid
            os.kill(pid, signal.SIGKILL)
            wait(lambda before=pid: engine.lost or engine.server.pid != before)  # type: ignore[misc]
        answer = httpx.get(f"{running.url}/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "an engine ended"})


def test_what_a_child_says_of_its_own_failure_is_in_the_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Python's server of files answers 501 to whoever posts."""
    engine = ChildEngine(begin(), tiny.tiny_tokenizer("decoder-only"), name="child", workers=1, positions=64)
    child = ServedModel(ModelSpec(name="child", ref="child"), engine, Limits(), Metrics())
    try:
        child.submit([job := Job([5], 1)])
        with pytest.raises(ServeError, match=r"^the engine failed; the server's log says why$"):
            job.future.result(60)
        assert "child: the engine failed: Error code: 501" in capsys.readouterr().err
    finally:
        child.close()


def test_models_that_were_loaded_end_when_a_later_one_cannot_be(tmp_path: Path) -> None:
    good = ModelSpec(name="good", ref=str(serving.write_model(tmp_path / "m")))
    with pytest.raises(ModelError, match="no such folder"):
        Service(serving.config_of(good, ModelSpec(name="bad", ref=str(tmp_path / "none"))), say=lambda _: None)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("good-")]
