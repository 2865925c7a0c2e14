"""What stands ready before the first step: precision, optimizer, trackers, the module on its device or shared out."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn

from instil.core.errors import ConfigError
from instil.train import checkpoint, sharding
from instil.train.allocator import keep_freed_memory
from instil.train.config import LoopConfig
from instil.train.state import TrainState


@dataclass(slots=True)
class Running:
    """One training on its way."""

    accelerator: Accelerator
    module: nn.Module
    optimizer: torch.optim.Optimizer
    state: TrainState
    shares: checkpoint.Shares | None
    """Both once more, where each process holds a share of them."""


def prepare(module: nn.Module, config: LoopConfig, folder: Path, seed: int, *, alike: bool) -> Running:
    """`module`, to be trained in place, with what trains it; as the checkpoint in `folder` says where there is one.
    `alike`: as a `Task` says it. Raises `ConfigError` for what is not installed or not possible here."""
    keep_freed_memory()
    set_seed(seed)
    _require_trackers(config)
    # Accelerate keeps one precision for the process; a run of several stages may have one for each.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        # Without it, processes on a machine that has no GPU would each train alone.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=_precision(config),
        log_with=list(config.trackers) or None,
        project_dir=str(folder),
    )
    if config.trackers and accelerator.is_main_process:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers("logs")
    if config.gradient_checkpointing:
        module.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator,union-attr]
    module.train()
    shared = config.parallel == "fsdp" and accelerator.num_processes > 1
    if shared:
        sharding.require_able(accelerator.mixed_precision, alike=alike)
        sharding.share(module, accelerator)
    optimizer = _optimizer(module, config)
    if not shared:
        module, optimizer = accelerator.prepare(module, optimizer)
    state = TrainState()
    shares = (module, optimizer) if shared else None
    checkpoint.restore(accelerator, folder, state, shares)
    return Running(accelerator, module, optimizer, state, shares)


def _precision(config: LoopConfig) -> str:
    if config.precision == "auto":
        cuda = torch.cuda.is_available()
        return "bf16" if cuda and torch.cuda.is_bf16_supported() else "fp16" if cuda else "no"
    if config.precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError("precision is fp16, which needs a GPU, and there is none; set precision: auto")
    return "no" if config.precision == "fp32" else config.precision


def _require_trackers(config: LoopConfig) -> None:
    """Raises `ConfigError` for a tracker that is not installed; accelerate would leave it out without a word."""
    for name in config.trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"trackers names {name}, which is not installed; pip install {name}, or leave it out")


def _optimizer(module: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # Norms and biases are not decayed, as is the custom since BERT.
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=config.learning_rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
