"""Checkpoints: weights, optimizer, random state and counters through accelerate, published in one step."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from instil.core.publish import publish_folder, sweep
from instil.train.state import TrainState

CHECKPOINT_NAME = "checkpoint"
_STATE_NAME = "state.json"


def save(accelerator: Accelerator, folder: Path, state: TrainState) -> None:
    """Write `folder / "checkpoint"`; the previous one stays until the new one is whole."""
    if accelerator.num_processes == 1:
        with publish_folder(folder / CHECKPOINT_NAME) as target:
            accelerator.save_state(str(target))
            state.write(target / _STATE_NAME)
        return
    # Every process writes its part, so the rename must wait for all of them.
    aside = folder / f".aside-{CHECKPOINT_NAME}-all"
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state.write(aside / _STATE_NAME)
        with publish_folder(folder / CHECKPOINT_NAME) as target:
            target.rmdir()
            aside.rename(target)
    accelerator.wait_for_everyone()


def restore(accelerator: Accelerator, folder: Path, state: TrainState) -> bool:
    """Load the checkpoint of `folder`, if there is one, into what `accelerator` prepared and into `state`."""
    if accelerator.is_main_process:
        sweep(folder)
    accelerator.wait_for_everyone()
    if not (folder / CHECKPOINT_NAME).is_dir():
        return False
    accelerator.load_state(str(folder / CHECKPOINT_NAME))
    state.read(folder / CHECKPOINT_NAME / _STATE_NAME)
    return True
