"""Two processes with one micro-batch each take the same steps as one process with two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.timeout(600)
HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-9


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _train(folder: Path, accumulation: int, way: str, *launcher: str) -> None:
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}:{HERE}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(HERE / "two_processes.py"), str(folder), str(accumulation), way]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=500, cwd=folder, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("way", ["", "on-policy"])
def test_two_processes_take_the_same_steps_as_one_with_twice_the_accumulation(way: str, tmp_path: Path) -> None:
    _train(tmp_path / "one", 2, way)
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1")
    _train(tmp_path / "two", 1, way, *launcher, f"--master-port={_free_port()}")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= TOLERANCE
    first, second = (json.loads((tmp_path / name / "reports.json").read_text()) for name in ("one", "two"))
    assert [report["rows"] for report in first] == [report["rows"] for report in second]
    assert [report["loss"] for report in first] == pytest.approx([report["loss"] for report in second], abs=TOLERANCE)
    assert (tmp_path / "two" / "checkpoint" / "state.json").is_file()
