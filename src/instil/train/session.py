"""One training run in a folder: the loop's reports kept as a history, a progress bar fed, a summary returned."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instil.core import publish
from instil.core.console import Advance
from instil.core.processes import is_first
from instil.train.config import LoopConfig
from instil.train.loop import Task, train
from instil.train.state import StepReport

HISTORY_NAME = "history.jsonl"


def run_training(
    task: Task, config: LoopConfig, *, folder: Path, seed: int, advance: Advance | None = None
) -> dict[str, Any]:
    """Train to the end of the budget; `folder` gets checkpoints, logs and `history.jsonl`, a line a step.

    Resumes from the checkpoint in `folder`; the history then goes on from that step. `advance` hears percent done.
    Returns the last step's numbers.
    """
    history = _History(folder / HISTORY_NAME)
    keeps = is_first()
    last: StepReport | None = None
    for report in train(task, config, folder=folder, seed=seed):
        if keeps:
            history.add(report)
        last = report
        if advance:
            advance(100 * report.progress, f"step {report.step}, loss {report.loss:.3f}")
    return dataclasses.asdict(last) if last else dict(history.last())


class _History:
    """Appends lines; on the first one, drops the lines that a killed run wrote after its last checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trimmed = False

    def add(self, report: StepReport) -> None:
        if not self._trimmed:
            kept = [line for line in self._lines() if json.loads(line)["step"] < report.step]
            publish.write_text(self._path, "".join(kept))
            self._trimmed = True
        with self._path.open("a", encoding="utf8") as file:
            file.write(json.dumps(dataclasses.asdict(report)) + "\n")

    def last(self) -> Mapping[str, Any]:
        lines = list(self._lines())
        return json.loads(lines[-1]) if lines else {}

    def _lines(self) -> Iterator[str]:
        if not self._path.is_file():
            return
        with self._path.open(encoding="utf8") as file:
            for line in file:
                # A line that a kill cut short has no end.
                if line.endswith("\n"):
                    yield line


def read_history(folder: Path) -> list[dict[str, float]]:
    """The steps of the run in `folder`, in order."""
    path = folder / HISTORY_NAME
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.is_file() else []
