"""Peak memory of a device in training, by cause. Coefficients from `tables/memory.json`, fitted on published peaks.

    peak = context + weights + teacher + states + the larger of (activations + logits) and the optimizer's own buffers

What data-parallel sharding divides: optimizer state (ZeRO-1), gradients too (ZeRO-2), weights too (ZeRO-3, FSDP), of
which then a layer at a time is whole.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

from instil.plan.hardware import Accelerator
from instil.plan.layout import Layout
from instil.plan.shape import Shape, parameters, parts
from instil.plan.tables import json_of
from instil.plan.time import Stack
from instil.plan.work import BYTES, adapter_parameters, layer_activation_bytes

Method = Literal["full", "lora", "qlora"]
Optimizer = Literal["adamw", "adamw-8bit", "adafactor", "sgd"]
Precision = Literal["fp32", "mixed", "bf16"]
"""`mixed`: weights and states in fp32, products in 16 bits. `bf16`: weights, gradients and states in 16 bits."""

_NF4 = 0.53
"""Bytes of a weight in 4 bits, with its block's scale."""
_STATES: dict[Optimizer, int] = {"adamw": 2, "adamw-8bit": 2, "adafactor": 0, "sgd": 0}
_GIB = 1024**3 / 1e9
"""A "24 GB" device has 24 GiB."""
USABLE = 0.96
"""Share of a device's memory that a process may fill; the rest is the driver's, and fragments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What was fitted."""

    context: float
    """Bytes of a process on a device: driver, libraries, workspaces."""
    kept_tuned: float
    """Factor on what a layer must keep: copies in other precisions, masks, what an allocator leaves free."""
    kept_general: float
    logits_tuned: float
    """Bytes for each logit of a micro-batch where logits stand in memory."""
    logits_general: float
    kept_adapters: float
    """Share of that which stays where weights are frozen: their products keep no inputs."""
    logits_quantised: float
    chunk: float
    """Bytes where the head is fused with the loss and works in chunks."""
    dequantised: float
    """Bytes of workspace for weights in 4 bits."""


@cache
def coefficients() -> Coefficients:
    """The fitted ones."""
    return Coefficients(**{field.name: json_of("memory.json")[field.name] for field in fields(Coefficients)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is trained and how. `tokens` are of a micro-batch of one replica, `rows` those whose logits are computed."""

    shape: Shape
    method: Method = "full"
    optimizer: Optimizer = "adamw"
    precision: Precision = "mixed"
    tokens: float = 2048
    rows: float | None = None
    trainable: float | None = None
    rank: int = 16
    fused_head: bool = True
    fused_update: bool = False
    """Gradients are used as they come, and none are kept."""
    stack: Stack = "general"
    layout: Layout = Layout()  # noqa: RUF009 - frozen
    teacher: Shape | None = None
    """A teacher that runs beside the student. A served one, and a label store, take no memory here."""
    teacher_bytes: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes at the peak, by cause."""

    context: float
    weights: float
    states: float
    activations: float
    logits: float
    buffers: float
    teacher: float

    @property
    def peak(self) -> float:
        """The most that is in use at once."""
        return self.context + self.weights + self.teacher + self.states + max(
            self.activations + self.logits, self.buffers
        )  # fmt: skip


def capacity(device: Accelerator) -> float:
    """Bytes that a process may use on a device."""
    return device.memory * _GIB * USABLE


def peak_memory(run: Training, c: Coefficients | None = None) -> Memory:
    """The peak of each device."""
    c = c or coefficients()
    layout = run.layout
    parallel = layout.tensor * layout.pipeline
    trained = trainable_parameters(run)
    whole = parameters(run.shape) - run.shape.vision
    frozen = whole if run.method != "full" else 0.0
    weight, gradient, state = _bytes_of(run)
    held = (frozen * _frozen_bytes(run) + trained * weight) / parallel
    per_layer = held * layout.pipeline / (run.shape.layers + run.shape.encoder_layers)
    if layout.sharding == "zero3" and layout.shards > 1:
        held = (0 if layout.offload else held / layout.inner_shards) + 2 * per_layer
    elif layout.offload:
        held = whole * BYTES / parallel
    spread = layout.shards
    states = trained * state / parallel / (spread if layout.sharding != "none" else 1)
    gradients = trained * gradient / parallel / (spread if layout.sharding in ("zero2", "zero3") else 1)
    alone = run.precision == "mixed" and spread == 1 and run.method == "full"
    beside = parameters(run.teacher) * run.teacher_bytes / parallel if run.teacher else 0.0
    beside /= layout.inner_shards if layout.sharding == "zero3" else 1
    return Memory(
        context=c.context + (c.dequantised if run.method == "qlora" else 0), weights=held,
        states=0.0 if layout.offload else states + gradients,
        activations=_activations(run, c), logits=_logits(run, c),
        buffers=trained * 4 / parallel if alone and not layout.offload else 0.0, teacher=beside,
    )  # fmt: skip


def trainable_parameters(run: Training) -> float:
    """Weights that gradients are taken of."""
    if run.trainable is not None:
        return run.trainable
    return float(
        parameters(run.shape) - run.shape.vision if run.method == "full" else adapter_parameters(run.shape, run.rank)
    )


def _bytes_of(run: Training) -> tuple[float, float, float]:
    """Bytes of a trained weight, of its gradient, of its optimizer state."""
    wide = 2 if run.precision == "bf16" else 4
    each = 1 if run.optimizer == "adamw-8bit" else wide
    return wide, 0 if run.fused_update else wide, _STATES[run.optimizer] * each


def _frozen_bytes(run: Training) -> float:
    if run.method != "qlora":
        return 4.0 if run.precision == "fp32" else 2.0
    by_part = parts(run.shape)
    tables = (by_part["embedding"] + by_part["head"]) / parameters(run.shape)
    return _NF4 * (1 - tables) + BYTES * tables


def _activations(run: Training, c: Coefficients) -> float:
    """Of all layers; with checkpointing their inputs, and the whole of one layer."""
    layout = run.layout
    factor = c.kept_tuned if run.stack == "tuned" else c.kept_general
    factor *= 1 if run.method == "full" else c.kept_adapters
    factor *= 2 if run.precision == "fp32" else 1
    tokens = run.tokens / layout.context
    layers = (run.shape.layers + run.shape.encoder_layers) / layout.pipeline
    layer = factor * layer_activation_bytes(run.shape) / layout.tensor
    inputs = run.shape.width * BYTES
    again = layout.checkpointing
    in_flight = min(layout.pipeline, 4) if layout.pipeline > 1 else 1
    return tokens * in_flight * (layers * ((1 - again) * layer + again * inputs) + again * layer)


def _logits(run: Training, c: Coefficients) -> float:
    rows = run.tokens if run.rows is None else run.rows
    each = c.logits_tuned if run.stack == "tuned" else c.logits_general
    each = c.logits_quantised if run.method == "qlora" else each
    whole = rows / run.layout.context * run.shape.vocabulary * each / run.layout.tensor
    return min(c.chunk, whole) if run.fused_head else whole
