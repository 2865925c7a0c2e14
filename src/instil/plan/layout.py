"""How a model is spread over devices, and what is kept of it where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sharding = Literal["none", "zero1", "zero2", "zero3"]
"""What data-parallel devices share out: nothing (DDP), optimizer state, gradients too, weights too (FSDP)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`devices` in groups of `tensor` x `pipeline` x `context`; the groups are replicas that `sharding` shares out."""

    devices: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    interleave: int = 1
    """Pieces of the model that a pipeline's device holds."""
    sharding: Sharding = "none"
    group: int = 0
    """Devices that weights are shared out over, where that is less than all replicas (HSDP, slices of TPUs)."""
    checkpointing: float = 0.0
    """Share of the forward pass that is done again in the backward pass: 0, or 1 for whole layers."""
    offload: bool = False
    """Optimizer state in the host's memory."""

    @property
    def model_devices(self) -> int:
        """Devices that hold one replica."""
        return self.tensor * self.pipeline * self.context

    @property
    def replicas(self) -> int:
        """Groups that each see other examples."""
        return max(1, self.devices // self.model_devices)

    @property
    def shards(self) -> int:
        """Devices over which data-parallel state is shared out."""
        return self.replicas * self.context

    @property
    def inner_shards(self) -> int:
        """Devices over which weights are shared out; beyond them stand whole copies."""
        return min(self.shards, self.group) if self.group else self.shards

    def __str__(self) -> str:
        names = {"none": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "FSDP"}
        axes = {"TP": self.tensor, "PP": self.pipeline, "CP": self.context}
        spread = [f"{name}{size}" for name, size in axes.items() if size > 1]
        if self.shards > 1:
            spread.append(f"{names[self.sharding]}{self.shards}")
        extras = ["checkpointing"] * bool(self.checkpointing) + ["offload"] * self.offload
        return " ".join([*(spread or ["one device"]), *extras])
