"""`instil serve` as a process: it ends on SIGTERM without losing what it accepted."""

from __future__ import annotations

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

import serving
from command import Command, instil


def begin(*arguments: str, cwd: Path) -> tuple[Command, str]:
    """The server, ready, and its address."""
    process = Command("serve", *arguments, "--port", "0", cwd=cwd)
    until = time.monotonic() + 60
    while (found := re.search(r"ready on (\S+)", process.err)) is None:
        assert process.poll() is None and time.monotonic() < until, process.err
        time.sleep(0.05)
    return process, found[1]


def test_sigterm_under_load_loses_no_accepted_request(tmp_path: Path) -> None:
    serving.write_model(tmp_path / "student")
    process, url = begin("student", "--batch", "2", "--threads", "1", "--cache-mb", "0", cwd=tmp_path)

    def ask(number: int) -> tuple[int, str]:
        body = {"prompt": f"text {number}", "max_tokens": 60}
        try:
            answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
        except httpx.ConnectError:
            return 0, ""  # It had ended before.
        text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else ""
        return answer.status_code, text

    with ThreadPoolExecutor(12) as clients:
        asked = [clients.submit(ask, number) for number in range(12)]
        while len(re.findall(r'"status": 200', process.err)) < 1:
            time.sleep(0.01)
        process.signal(signal.SIGTERM)
        late = [clients.submit(ask, number) for number in range(12, 18)]
        answers = [each.result() for each in asked]
        refused = {each.result()[0] for each in late}
    ended = process.end(30)
    assert [status for status, _ in answers] == [200] * 12
    assert refused <= {503, 0}
    assert ended.code == 0 and "SIGTERM: answering" in ended.err and "Traceback" not in ended.err


def test_misuse_is_said_in_one_line(tmp_path: Path) -> None:
    assert "no such folder" in instil("serve", "./nowhere", cwd=tmp_path).said
    assert "choose one of auto, transformers" in instil("serve", "x", "--engine", "tvm", cwd=tmp_path).said
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "manifest.json").write_text("{}")
    assert "a stage without a model" in instil("serve", "runs", cwd=tmp_path).said


def test_a_key_is_made(tmp_path: Path) -> None:
    made = instil("serve-key", "keys", "ada", cwd=tmp_path)
    assert made.out.startswith("instil-") and "Next: instil serve MODEL --keys keys" in made.out
