"""Where a training run stands: everything, beside weights, optimizer and random state, that resuming needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from instil.core.publish import write_text
from instil.data.batches import Position
from instil.train.config import Budget


@dataclass(slots=True)
class TrainState:
    """Counters of a run; `elapsed_s` is time spent in steps, without checkpoints and validation, `renewed_s` that part
    of it in which the task renewed their batches."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    of: int = 0
    rows: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    renewed_s: float = 0.0

    @property
    def position(self) -> Position:
        """The next batch to read."""
        return Position(self.epoch, self.batch, self.of)

    @position.setter
    def position(self, place: Position) -> None:
        self.epoch, self.batch, self.of = place.epoch, place.batch, place.of

    def progress(self, budget: Budget) -> float:
        """Share of `budget` that is spent, in [0, 1]."""
        if budget.steps:
            share = self.step / budget.steps
        elif budget.tokens:
            share = self.tokens / budget.tokens
        elif budget.minutes:
            share = self.elapsed_s / (60 * budget.minutes)
        else:
            share = (self.epoch + self.batch / max(self.of, 1)) / (budget.epochs or 1)
        return min(1.0, share)

    def write(self, path: Path) -> None:
        """Save as JSON."""
        write_text(path, json.dumps(asdict(self)))

    def read(self, path: Path) -> None:
        """Take over what `write` saved."""
        for name, value in json.loads(path.read_text(encoding="utf8")).items():
            setattr(self, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step did. Losses are means over its target rows, in nats; `soft` is the divergence without
    T^2. `waited_s`: seconds of the step in which it waited for its batches and their labels; `renewed_s`: seconds of
    all steps so far in which batches were made anew with the weights of then."""

    step: int
    progress: float
    loss: float
    soft: float
    hard: float
    rows: int
    tokens: int
    learning_rate: float
    grad_norm: float
    elapsed_s: float
    validation_loss: float | None = None
    waited_s: float = field(default=0.0, compare=False)
    renewed_s: float = field(default=0.0, compare=False)
