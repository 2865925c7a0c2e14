"""Checkpoints: weights, optimizer, random state and counters through accelerate, published in one step."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn

from instil.core.errors import ConfigError, storage_error
from instil.core.publish import publish_folder, sweep
from instil.train import sharding
from instil.train.state import TrainState

CHECKPOINT_NAME = "checkpoint"
_STATE_NAME = "state.json"


Shares = tuple[nn.Module, torch.optim.Optimizer]
"""The module and its optimizer, where processes hold shares of them; accelerate then knows of neither."""


def save(accelerator: Accelerator, folder: Path, state: TrainState, shares: Shares | None = None) -> None:
    """Write `folder / "checkpoint"`; the previous one stays until the new one is whole."""
    if accelerator.num_processes == 1:
        with publish_folder(folder / CHECKPOINT_NAME) as target:
            _save_state(accelerator, target)
            state.write(target / _STATE_NAME)
        return
    # Every process writes its part, so the rename must wait for all of them.
    aside = folder / f".aside-{CHECKPOINT_NAME}-all"
    _save_state(accelerator, aside)
    if shares:
        sharding.save(*shares, aside)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state.write(aside / _STATE_NAME)
        with publish_folder(folder / CHECKPOINT_NAME) as target:
            target.rmdir()
            aside.rename(target)
    accelerator.wait_for_everyone()


def _save_state(accelerator: Accelerator, target: Path) -> None:
    try:
        accelerator.save_state(str(target))
    except (SafetensorError, RuntimeError) as error:
        # safetensors and torch have their own errors for a disk that refuses.
        if isinstance(error, SafetensorError) or "writ" in str(error):
            raise storage_error(error, target.parent / CHECKPOINT_NAME) from error
        raise


def discard(folder: Path) -> None:
    """Remove the checkpoint of `folder`, whose training has ended."""
    shutil.rmtree(folder / CHECKPOINT_NAME, ignore_errors=True)


def restore(accelerator: Accelerator, folder: Path, state: TrainState, shares: Shares | None = None) -> bool:
    """Load the checkpoint of `folder`, if there is one, into what `accelerator` prepared and into `state`."""
    if accelerator.is_main_process:
        sweep(folder)
    accelerator.wait_for_everyone()
    if not (folder / CHECKPOINT_NAME).is_dir():
        return False
    if (folder / CHECKPOINT_NAME / sharding.STATE_NAME).is_dir() != bool(shares):
        raise ConfigError(
            f"{folder / CHECKPOINT_NAME}: written with another loop.parallel or by one process; go on as it began, or"
            " delete it"
        )
    accelerator.load_state(str(folder / CHECKPOINT_NAME))
    if shares:
        sharding.load(*shares, folder / CHECKPOINT_NAME)
    state.read(folder / CHECKPOINT_NAME / _STATE_NAME)
    return True
