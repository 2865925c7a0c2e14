"""How long an optimizer step takes: a roofline with few coefficients, fitted on published measurements.

A step is, on each device,

    micro-batches x (compute + launch floor + tensor exchange) x pipeline bubble  +  exposed exchange  +  optimizer

- compute: matrix products at a share of the fastest that was measured on the device, attention at its own share, and
  the bytes that activations and weights move through memory;
- launch floor: a stack that launches kernel by kernel cannot be faster than that, however short the batch;
- exchange: gathering weights and reducing gradients, over links inside a node or the network between nodes, hidden
  behind compute but for a share.

Everything about hardware enters by its data sheet, so that a device nobody has measured has an estimate too.
`benchmarks/plan_fit.py` fits the coefficients; `tables/time.json` holds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

from instil.plan.hardware import Accelerator
from instil.plan.layout import Layout
from instil.plan.tables import json_of

Stack = Literal["tuned", "general"]
"""`tuned`: fused kernels and compiled graphs (Megatron, MaxText, Composer); `general`: transformers' modules as is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What the fit decides. Shares are of 1, `launch` is in seconds, the rest are factors without unit."""

    product: float
    """Share of the best matrix product that a layer's products reach."""
    product_tpu: float
    attention: float
    """The same of attention's products."""
    softmax: float
    """Bytes of memory traffic that an attention FLOP costs like: what its exponentials take."""
    scores: float
    """Widths that a stored score moves, where attention writes its scores to memory."""
    traffic: float
    """Bytes that an activation of a layer moves through memory, in widths of 2 bytes, forward and backward."""
    traffic_tpu: float
    traffic_general: float
    traffic_adapters: float
    """What adapters add to it: copies, dropout and sums beside each frozen product."""
    narrow: float
    """Width at which products reach half of their share."""
    launch_tuned: float
    """Seconds a layer for a forward and a backward pass, at least."""
    launch_general: float
    launch_gathering: float
    """Seconds a layer more where a general stack gathers each layer's weights (ZeRO-3, FSDP)."""
    exposed: float
    """Share of exchange that compute does not hide, where it is the shorter of the two."""
    link: float
    """Share of a link's data-sheet rate that collectives reach."""
    network: float
    scale: float
    """Loss for each doubling of nodes: stragglers, jitter."""
    overlap_tpu: float
    """Share of tensor-parallel exchange that compiled graphs do not hide."""
    tensor: float
    """Loss for each doubling of tensor parallelism beyond its exchange."""


@cache
def coefficients() -> Coefficients:
    """The fitted ones."""
    return Coefficients(**{field.name: json_of("time.json")[field.name] for field in fields(Coefficients)})


def spread(stack: Stack) -> float:
    """Half the width, in logarithms, of the interval that held four fifths of the runs of sources left out of a fit."""
    return float(json_of("time.json")["spread"][stack])


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a token costs, whatever the hardware. FLOPs are of one forward pass over one token."""

    products: float
    attention: float
    parameters: float
    trainable: float
    layers: int
    width: int
    backward: float = 2.0
    """Backward FLOPs of products, in forward passes: 2; 1 where weights stay frozen; 0 without a backward pass."""
    weight_bytes: float = 2.0
    scores: float = 0.0
    """Attention scores that a token writes to memory in a layer; 0 with fused attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences of `length` tokens: `sequences` in a micro-batch of one replica, `micro_batches` in a step."""

    length: float
    sequences: float
    micro_batches: float = 1.0

    @property
    def tokens(self) -> float:
        """Tokens of one micro-batch of one replica."""
        return self.length * self.sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Seconds of one optimizer step by cause, on each device. They add up to `seconds`."""

    compute: float
    launch: float
    exchange: float
    bubble: float
    optimizer: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.launch + self.exchange + self.bubble + self.optimizer


def step_time(
    load: Load, batch: Batch, device: Accelerator, layout: Layout, stack: Stack, c: Coefficients | None = None
) -> Step:
    """One optimizer step."""
    c = c or coefficients()
    compute = _compute(load, batch, device, layout, stack, c)
    per_layer = c.launch_tuned if stack == "tuned" or device.is_tpu else c.launch_general
    if stack == "general" and layout.sharding == "zero3" and layout.shards > 1:
        per_layer += c.launch_gathering
    floor = per_layer * load.layers / layout.pipeline * ((3 if load.backward else 1) + layout.checkpointing) / 3
    busy = _smooth_max(compute, floor)
    inner = _tensor_exchange(load, batch, device, layout, c)
    bubble = (layout.pipeline - 1) / (batch.micro_batches * layout.interleave)
    running = batch.micro_batches * (busy + inner)
    outer = _data_exchange(load, batch, device, layout, c)
    hidden = min(running, outer)
    stretch = (1 + c.scale * _doublings(layout.devices, device.node)) * (1 + c.tensor * math.log2(layout.tensor))
    return Step(
        compute=batch.micro_batches * compute * stretch,
        launch=batch.micro_batches * (busy - compute) * stretch,
        exchange=batch.micro_batches * inner + (outer - hidden) + c.exposed * hidden,
        bubble=bubble * running,
        optimizer=_optimizer(load, device, layout),
    )


def tokens_a_second(
    load: Load, batch: Batch, device: Accelerator, layout: Layout, stack: Stack, c: Coefficients | None = None
) -> float:
    """Tokens a second on each device."""
    step = step_time(load, batch, device, layout, stack, c)
    return batch.tokens * batch.micro_batches / layout.model_devices / step.seconds


def _compute(load: Load, batch: Batch, device: Accelerator, layout: Layout, stack: Stack, c: Coefficients) -> float:
    """Seconds that one micro-batch keeps a device busy: products, attention, memory."""
    passes = 1 + load.backward + layout.checkpointing
    share = batch.tokens / layout.model_devices
    reached = (c.product_tpu if device.is_tpu else c.product) * device.best
    narrow = load.width / layout.tensor
    fill = 1.0 if device.is_tpu else narrow / (narrow + c.narrow)
    products = load.products * passes * share / (reached * fill)
    # Backward attention does five products for the forward's two, and it is the same with frozen weights.
    attention = load.attention * (1 + 2.5 * (load.backward > 0) + layout.checkpointing) * share
    attending = attention / (c.attention * device.best) + attention * c.softmax / device.bandwidth
    widths = c.traffic_tpu if device.is_tpu else c.traffic if stack == "tuned" else c.traffic_general
    if 0 < load.backward < 2 and stack == "general":
        widths += c.traffic_adapters
    moved = (widths * load.width + c.scores * load.scores) * passes / 3 * load.layers * 2 * share
    weights = (1 + min(load.backward, 2) + layout.checkpointing) * load.parameters * load.weight_bytes
    return products + attending + (moved + weights / (layout.tensor * layout.pipeline)) / device.bandwidth


def _tensor_exchange(load: Load, batch: Batch, device: Accelerator, layout: Layout, c: Coefficients) -> float:
    """Seconds for the sums over tensor-parallel devices: two forward and two backward in each layer."""
    if layout.tensor == 1:
        return 0.0
    times = 2 + 2 * (load.backward > 0) + 2 * layout.checkpointing
    payload = batch.tokens / layout.context * load.width * 2 * 2 * (layout.tensor - 1) / layout.tensor
    shown = c.overlap_tpu if device.is_tpu else 1.0
    return shown * times * load.layers / layout.pipeline * payload / _rate(device, layout.tensor, c)


def _data_exchange(load: Load, batch: Batch, device: Accelerator, layout: Layout, c: Coefficients) -> float:
    """Seconds for weights and gradients between replicas, in a whole step."""
    if layout.shards == 1:
        return 0.0
    mine = 2 / (layout.tensor * layout.pipeline)
    inner = layout.inner_shards
    held = mine * (inner - 1) / inner
    if layout.sharding == "zero3":
        gathers = 1 + (load.backward > 0)
        payload = batch.micro_batches * (gathers * load.parameters + load.trainable) * held
    else:
        payload = 2 * load.trainable * held
    seconds = payload / _rate(device, min(layout.devices, inner * layout.model_devices), c)
    copies = layout.shards // inner
    between = 2 * load.trainable * mine / inner * (copies - 1) / copies
    return seconds + between / (c.network * device.network)


def _rate(device: Accelerator, group: int, c: Coefficients) -> float:
    """Bytes a second that a collective over `group` devices reaches on each of them."""
    if group <= device.node:
        return c.link * device.link
    return c.network * min(device.link, device.network * device.node)  # each node fetches once, by all its adapters


def _optimizer(load: Load, device: Accelerator, layout: Layout) -> float:
    """Seconds for Adam to read and write master weights, two moments and gradients."""
    shared = layout.shards if layout.sharding != "none" else 1
    mine = load.trainable / (layout.tensor * layout.pipeline * shared)
    return mine * 28 / (device.bandwidth if not layout.offload else 20e9)


def _doublings(devices: int, node: int) -> float:
    return max(0.0, math.log2(devices / node))


def _smooth_max(a: float, b: float) -> float:
    """Near the larger of two, a little above where they are alike."""
    top = max(a, b)
    return top * float(((a / top) ** 4 + (b / top) ** 4) ** 0.25) if top else 0.0
