"""Several processes with a share of weights, gradients and optimizer states each: PyTorch's fully_shard (FSDP2).

accelerate's own way needs GPUs, and on a CPU does plain DDP instead without a word, so it could not be tested. What is
imported here takes a second, so only those pay it who share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from instil.core.errors import ConfigError
from instil.models.head import unwrap
from instil.models.layers import Side, stack_of

STATE_NAME = "shards"


def require_able(precision: str, *, alike: bool) -> None:
    """Raises `ConfigError` for what processes that share one model cannot do. `alike`: each passes all layers of each
    batch, through the whole module."""
    if precision == "fp16":  # Chosen for GPUs without bf16.
        raise ConfigError("parallel: fsdp scales no losses, as fp16 needs; set precision: fp32, or parallel: ddp")
    if not alike:
        raise ConfigError(
            "parallel: fsdp passes every batch through all layers and writes no texts: set parallel: ddp, or leave out"
            " on_policy, self_teacher, features, teach.layer_drop and the learned temperature"
        )


def share(module: Any, accelerator: Accelerator) -> None:
    """Leaves each process its share of `module`, which computes with its `model`: a unit a layer, and one of all else.

    The latter stays whole while `module` computes, so that the head is there when rows are scored. In bf16 the weights
    stay of 32 bits, and layers compute on what is rounded.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = bf16 if accelerator.mixed_precision == "bf16" else MixedPrecisionPolicy()
    inner = unwrap(module.model)
    sides: tuple[Side, ...] = ("encoder", "decoder") if inner.config.is_encoder_decoder else ("decoder",)
    for side in sides:
        for layer in stack_of(inner, side).layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)


def whole(value: Tensor) -> Tensor:
    """What the processes hold together, on each of them."""
    found: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return found


def gather(module: nn.Module, *, keeps: bool) -> None:
    """Puts whole weights, in the host's memory, in the place of the shares where `keeps`; elsewhere none remain."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    for unit in module.modules():
        if isinstance(unit, FSDPModule):
            unit.reshard()
    known: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if not isinstance(parameter, DTensor):
                continue
            if parameter not in known:
                full = whole(parameter.detach())
                known[parameter] = nn.Parameter(full.cpu() if keeps else full.new_empty(0), parameter.requires_grad)
            setattr(owner, name, known[parameter])


def save(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Each process writes its share of the weights and of the optimizer's states."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, states = get_state_dict(module, optimizer)
    dcp.save({"weights": weights, "optimizer": states}, checkpoint_id=folder / STATE_NAME)


def load(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Reads them back, for another number of processes too."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    weights, states = get_state_dict(module, optimizer)
    # Read into the tensors that stand there.
    dcp.load({"weights": weights, "optimizer": states}, checkpoint_id=folder / STATE_NAME)
    set_state_dict(module, optimizer, model_state_dict=weights, optim_state_dict=states)
