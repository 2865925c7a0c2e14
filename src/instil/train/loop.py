"""The one training loop, on accelerate: a generator that yields a report after each optimizer step.

    for report in train(task, config, folder=folder, seed=seed): ...

Normalisation: the gradient of a step is that of (sum of all its row losses) / (number of all its rows), over
micro-batches and processes together. The count is known before the first backward, so nothing is divided twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from instil.core.errors import ModelError
from instil.data.batches import Curriculum, Position, endless_batches
from instil.data.mixing import Mixture
from instil.objectives.fused import LossSums
from instil.train import checkpoint, sharding
from instil.train.config import LoopConfig
from instil.train.prepare import Running, prepare
from instil.train.schedule import rate_factor
from instil.train.state import StepReport


class MicroBatch(Protocol):
    """What a task hands to its module: one micro-batch on its way to the device."""

    @property
    def rows(self) -> int:
        """Number of target rows."""

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same on `device`."""


class Task(Protocol):
    """What is trained on what: `module(batch)` gives `LossSums`, `batch(indices)` collates, `lengths` are in tokens,
    a `curriculum` says which examples an epoch has."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def lengths(self) -> Sequence[int]: ...

    @property
    def mixture(self) -> Mixture | None:
        """How often each example comes; None for once an epoch."""

    @property
    def curriculum(self) -> Curriculum | None:
        """Which examples the first epochs have; None for all."""

    @property
    def alike(self) -> bool:
        """Whether every batch passes all layers, and all that needs the weights is in the module's `forward`."""

    def batch(self, indices: Sequence[int]) -> MicroBatch:
        """The micro-batch of these examples."""

    def at(self, progress: float) -> None:
        """Told before each step which share of the budget is spent."""

    def renew(self, batches: list[Any], step: int) -> Sequence[MicroBatch]:
        """The micro-batches of the step after `step` others, with all in them that depends on the weights of now."""

    def validation(self) -> Iterator[MicroBatch]:
        """Micro-batches of held-out examples; none when there is nothing to validate on."""


_Group = tuple[list[MicroBatch], Position]


def train(task: Task, config: LoopConfig, *, folder: Path, seed: int) -> Iterator[StepReport]:
    """Train `task.module` in place until the budget is spent; yields after every optimizer step.

    Checkpoints go to `folder / "checkpoint"`; when one is there, training goes on from it. Raises `ModelError` when the
    loss stops being a number.
    """
    run = prepare(task.module, config, folder, seed, alike=task.alike)
    accelerator, state = run.accelerator, run.state
    places = _own_batches(task, config, seed, state.position, accelerator)
    saved_at = time.monotonic()
    with closing(_ahead(_group(task, places, config.accumulation) for _ in count())) as groups:
        yield from _steps(run, config, task, groups, folder, saved_at)
    if run.shares:
        sharding.gather(task.module, keeps=accelerator.is_main_process)
    for tracker in accelerator.trackers:  # Not end_training, which would part the processes for good.
        tracker.finish()


def _steps(
    run: Running, config: LoopConfig, task: Task, groups: Iterator[_Group], folder: Path, saved_at: float
) -> Iterator[StepReport]:
    accelerator, state = run.accelerator, run.state
    while state.progress(config.budget) < 1:
        started = time.monotonic()
        batches, position = next(groups)
        waited_s = time.monotonic() - started
        task.at(state.progress(config.budget))
        renewing = time.monotonic()
        with accelerator.autocast():
            batches = list(task.renew(batches, state.step))
        state.renewed_s += time.monotonic() - renewing
        report = replace(_step(run, config, batches, position, started), waited_s=waited_s)
        if config.validate_steps and state.step % config.validate_steps == 0:
            report = _with_validation(report, run, task)
        accelerator.log(_logged(report), step=report.step)
        yield report
        if _checkpoint_due(config, state.step, saved_at):
            checkpoint.save(accelerator, folder, state, run.shares)
            saved_at = time.monotonic()


def _group(task: Task, places: Iterator[tuple[Position, list[int]]], size: int) -> _Group:
    """The micro-batches of one optimizer step, and the position after them."""
    chosen = list(islice(places, size))
    return [task.batch(indices) for _, indices in chosen], chosen[-1][0]


def _ahead(groups: Iterator[_Group]) -> Generator[_Group]:
    """The same, each read and collated by another thread while the step before it is computed."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = pool.submit(next, groups)
        while True:
            group = coming.result()
            coming = pool.submit(next, groups)
            yield group


def _own_batches(
    task: Task, config: LoopConfig, seed: int, start: Position, accelerator: Accelerator
) -> Iterator[tuple[Position, list[int]]]:
    """This process's share of the batches: every n-th, of n processes; positions count the batches of all."""
    every = endless_batches(
        task.lengths, tokens=config.batch_tokens, seed=seed, start=start, most=config.batch_size, mixture=task.mixture,
        curriculum=task.curriculum,
    )  # fmt: skip
    while True:
        round_of_all = list(islice(every, accelerator.num_processes))
        yield round_of_all[-1][0], round_of_all[accelerator.process_index][1]


def _step(
    run: Running, config: LoopConfig, batches: list[MicroBatch], position: Position, started: float
) -> StepReport:
    accelerator, state = run.accelerator, run.state
    factor = rate_factor(state.progress(config.budget), warmup=config.warmup, decay=config.decay)
    for group in run.optimizer.param_groups:
        group["lr"] = config.learning_rate * factor
    own = torch.tensor([sum(b.rows for b in batches), sum(b.tokens for b in batches)], dtype=torch.float64)
    rows, tokens = (int(value) for value in _over_processes(accelerator, own))
    sums = torch.zeros(3, dtype=torch.float64)
    for number, batch in enumerate(batches, start=1):
        last = number == len(batches)
        with nullcontext() if last else accelerator.no_sync(run.module):
            loss: LossSums = run.module(batch.to(accelerator.device))
            # Processes' gradients are averaged, so each one's share is scaled by their number.
            accelerator.backward(loss.total * (accelerator.num_processes / rows))
        sums += torch.tensor([float(loss.total.detach()), loss.soft, loss.hard], dtype=torch.float64)
    norm = sharding.whole(accelerator.clip_grad_norm_(run.module.parameters(), config.max_grad_norm))
    total, soft, hard = (float(value) / rows for value in _over_processes(accelerator, sums))
    _require_finite(total, float(norm), state.step + 1, config, accelerator)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.position = position
    state.rows += rows
    state.tokens += tokens
    state.elapsed_s = _longest(accelerator, state.elapsed_s + time.monotonic() - started)
    return StepReport(
        step=state.step, progress=state.progress(config.budget), loss=total, soft=soft,
        hard=hard, rows=state.rows, tokens=state.tokens, learning_rate=config.learning_rate * factor,
        grad_norm=float(norm), elapsed_s=state.elapsed_s, renewed_s=state.renewed_s,
    )  # fmt: skip


def _require_finite(loss: float, norm: float, step: int, config: LoopConfig, accelerator: Accelerator) -> None:
    """Before the optimizer's step, so that no checkpoint can hold weights that are no numbers."""
    # With fp16 a gradient overflows now and then; accelerate skips that step and lowers the loss scale.
    if math.isfinite(loss) and (math.isfinite(norm) or accelerator.mixed_precision == "fp16"):
        return
    what = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
    raise ModelError(
        f"{what} at step {step}; lower learning_rate (now {config.learning_rate:g})"
        f" or set precision: fp32 (now {config.precision})"
    )


def _over_processes(accelerator: Accelerator, own: Tensor) -> list[float]:
    if accelerator.num_processes == 1:
        return list(own.tolist())
    return list(accelerator.reduce(own.to(accelerator.device), reduction="sum").tolist())


def _longest(accelerator: Accelerator, seconds: float) -> float:
    """The slowest process's time, so that all processes stop at the same step."""
    if accelerator.num_processes == 1:
        return seconds
    return float(accelerator.gather(torch.tensor([seconds], device=accelerator.device)).max())


def _with_validation(report: StepReport, run: Running, task: Task) -> StepReport:
    total, count = 0.0, 0
    run.module.eval()
    with torch.inference_mode():
        for batch in task.validation():
            loss: LossSums = run.module(batch.to(run.accelerator.device))
            total += loss.hard
            count += loss.count
    run.module.train()
    return replace(report, validation_loss=total / count) if count else report


def _logged(report: StepReport) -> dict[str, float]:
    names = ("loss", "soft", "hard", "learning_rate", "grad_norm", "validation_loss")
    return {name: value for name in names if (value := getattr(report, name)) is not None}


def _checkpoint_due(config: LoopConfig, step: int, saved_at: float) -> bool:
    if config.checkpoint_steps:
        return step % config.checkpoint_steps == 0
    return time.monotonic() - saved_at >= 60 * config.checkpoint_minutes
