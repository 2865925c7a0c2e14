"""A stage's time: that of every command that worked at it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from instil.run.elapsed import ELAPSED_NAME
from instil.run.stage import Artifact, Workshop

_KILLED = """
import os, signal, sys, time
from pathlib import Path
from instil.run import elapsed
from instil.run.stage import Workshop

def work(folder):
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)

elapsed._KEPT_EVERY_SECONDS = 0.05
Workshop(root=Path(sys.argv[1]), recipe_yaml="", seed=1, student_seed=1).stage("data", work, inputs={}, config={})
"""


def _stage(root: Path, seconds: float, *, stopped: bool = False, damage: str = "") -> Artifact:
    def work(folder: Path) -> Mapping[str, Any]:
        time.sleep(seconds)
        if stopped:
            raise KeyboardInterrupt
        return {}

    shop = Workshop(root=root, recipe_yaml="", seed=1, student_seed=1)
    return shop.stage("data", work, inputs={}, config={}, damage=lambda _: damage)


def test_the_time_before_a_stop_counts_and_so_does_mending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        _stage(tmp_path, 0.3, stopped=True)
    made = _stage(tmp_path, 0.1)
    assert made.manifest.wall_s >= 0.4
    assert not (made.folder / ELAPSED_NAME).exists()
    assert "going on in" not in capsys.readouterr().err, "nothing was done yet"
    assert _stage(tmp_path, 0.1).manifest == made.manifest
    mended = _stage(tmp_path, 0.1, damage="a file is damaged")
    assert mended.manifest.wall_s >= made.manifest.wall_s + 0.1


def test_the_time_before_a_kill_counts(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert _stage(tmp_path, 0.0).manifest.wall_s >= 0.2
