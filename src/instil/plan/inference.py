"""How fast a model is served: reading prompts at the rate of products, writing at the rate of memory.

An engine with continuous batching holds as many requests as their keys and values leave room for. Each step then reads
the weights once and every request's keys and values; each new request's prompt is read in between. So, per request,

    seconds = prompt FLOPs / rate  +  output tokens x step / requests at once

`benchmarks/plan_serving.py` fits the shares on published throughput; `tables/inference.json` holds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache

from instil.plan.hardware import Accelerator
from instil.plan.memory import capacity
from instil.plan.shape import Shape, active_parameters, parameters
from instil.plan.tables import json_of
from instil.plan.work import forward_flops, kv_cache_bytes

MOST_REQUESTS = 512
"""That an engine takes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What was fitted: shares of the data sheet, and seconds of a step that neither explains."""

    reading: float
    writing: float
    step: float


@cache
def coefficients() -> Coefficients:
    """The fitted ones."""
    return Coefficients(**{field.name: json_of("inference.json")[field.name] for field in fields(Coefficients)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A model on `devices` that work as one, with weights and cache of so many bytes a number."""

    shape: Shape
    device: Accelerator
    devices: int = 1
    weight_bytes: float = 2.0
    cache_bytes: float = 2.0


def fits(serving: Serving, length: float) -> bool:
    """Whether weights and one request of `length` tokens have room."""
    return _room(serving) >= kv_cache_bytes(serving.shape, length, serving.cache_bytes)


def devices_needed(serving: Serving, length: float) -> int:
    """The least power of two of devices that serves it."""
    whole = parameters(serving.shape) * serving.weight_bytes + kv_cache_bytes(serving.shape, length)
    count = 2 ** math.ceil(math.log2(max(1.0, whole / (0.9 * capacity(serving.device)))))
    return int(count)


def request_seconds(serving: Serving, source: float, target: float, c: Coefficients | None = None) -> float:
    """Seconds of the whole group of devices for one request of many, at full load."""
    c = c or coefficients()
    shape, device = serving.shape, serving.device
    rate = device.best * (2 if serving.weight_bytes <= 1 and device.fp8 else 1) * serving.devices
    reading = forward_flops(shape, source, 0, rows=1).total / (c.reading * rate)
    held = kv_cache_bytes(shape, source + target / 2, serving.cache_bytes)
    at_once = max(1.0, min(MOST_REQUESTS, _room(serving) / kv_cache_bytes(shape, source + target, serving.cache_bytes)))
    bandwidth = c.writing * device.bandwidth * serving.devices
    moved = (parameters(shape) * serving.weight_bytes + at_once * held) / bandwidth
    computed = at_once * 2 * active_parameters(shape) / (c.reading * rate)
    step = max(moved, computed) + c.step
    return reading + target * step / at_once


def output_rate(serving: Serving, source: float, target: float, c: Coefficients | None = None) -> float:
    """Output tokens a second of the group at full load."""
    return target / request_seconds(serving, source, target, c)


def _room(serving: Serving) -> float:
    """Bytes that weights leave for keys and values."""
    weights = parameters(serving.shape) * serving.weight_bytes
    return 0.93 * capacity(serving.device) * serving.devices - weights
