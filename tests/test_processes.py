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

from instil.train.session import read_history
from project import finished, project

pytestmark = pytest.mark.timeout(600)
HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-9


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _run(folder: Path, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}:{HERE}", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        cwd=folder,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return ended


def _in_two(*command: str) -> tuple[str, ...]:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1")
    return (*launcher, f"--master-port={_free_port()}", *command)


def _train(folder: Path, accumulation: int, way: str, *launcher: str) -> None:
    folder.mkdir()
    _run(folder, *launcher, str(HERE / "two_processes.py"), str(folder), str(accumulation), way)


@pytest.mark.parametrize("way", ["", "on-policy", "fsdp", "fsdp-resumed"])
def test_two_processes_take_the_same_steps_as_one_with_twice_the_accumulation(way: str, tmp_path: Path) -> None:
    _train(tmp_path / "one", 2, way)
    _train(tmp_path / "two", 1, way, *_in_two())
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= TOLERANCE
    first, second = (json.loads((tmp_path / name / "reports.json").read_text()) for name in ("one", "two"))
    assert [report["rows"] for report in first] == [report["rows"] for report in second]
    assert [report["loss"] for report in first] == pytest.approx([report["loss"] for report in second], abs=TOLERANCE)
    watched = [[each["validation"] for each in reports[1::2]] for reports in (first, second)]
    assert None not in watched[0] and watched[0] == pytest.approx(watched[1], abs=TOLERANCE)
    assert (tmp_path / "two" / "checkpoint" / "shards").is_dir() == ("fsdp" in way)
    assert (tmp_path / "two" / "checkpoint" / "state.json").is_file()


def test_a_checkpoint_of_shares_is_not_taken_by_one_process(tmp_path: Path) -> None:
    _train(tmp_path / "two", 1, "fsdp", *_in_two())
    ended = _run(tmp_path, str(HERE / "two_processes.py"), str(tmp_path / "two"), "2", "fsdp", code=1)
    assert "checkpoint: written with another loop.parallel or by one process; go on as it began" in ended.stderr
    assert (tmp_path / "two" / "checkpoint" / "shards").is_dir()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_every_stage_runs_in_two_processes(parallel: str, tmp_path: Path) -> None:
    """The whole pipeline: what is done once the first does, both train, and the steps are those of one process with
    twice the accumulation."""
    for name, accumulation in (("two", 1), ("one", 2)):
        loop = {"budget": {"steps": 4}, "accumulation": accumulation, "parallel": parallel}
        project(tmp_path / name, "llama", teacher={"teach": None}, labels={"targets": "gold"}, distil={"loop": loop})
    command = ("-m", "instil", "run", "recipe.yaml", "--no-check", "--json")
    ended = _run(tmp_path / "two", *_in_two(*command))
    summary = json.loads(ended.stdout)
    assert ended.stderr.count("distil: done") == 1
    assert _run(tmp_path / "two", *_in_two(*command)).stderr.count("distil: reused") == 1
    _run(tmp_path / "one", *command)
    one, two = (read_history(finished(tmp_path / name, "distil")) for name in ("one", "two"))
    assert [step["rows"] for step in one] == [step["rows"] for step in two] and len(two) == 4
    assert [step["loss"] for step in two] == pytest.approx([step["loss"] for step in one], rel=1e-3)
    assert summary["student"]["n"] == 6 and not list((tmp_path / "two").glob("runs/*/*.part"))
