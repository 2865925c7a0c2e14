"""Rows of published memory peaks, read into what the memory model takes.

Models are known by their size: those of the planner's own table, and older ones that the rows name, in `OLDER`. What a
row leaves untold: a micro-batch of 1, 256 tokens, adapters of rank 16, and checkpointing where the device would be
too small without.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from benchmarks.plan_rows import Row, Skipped, device_of, number
from instil.plan.hardware import Accelerator
from instil.plan.layout import Layout, Sharding
from instil.plan.memory import Coefficients, Method, Optimizer, Precision, Training, capacity, peak_memory
from instil.plan.models import known_models
from instil.plan.shape import Shape, parameters
from instil.plan.time import Stack
from instil.plan.work import adapter_parameters


def _older(name: str, width: int, layers: int, heads: int, inner: int, vocabulary: int, encoder: int = 0) -> Shape:
    return Shape(
        name=name, width=width, layers=layers, heads=heads, kv_heads=heads, head_width=width // heads, inner=inner,
        vocabulary=vocabulary, tied=False, encoder_layers=encoder, gated=name != "bloom-7b1",
    )  # fmt: skip


OLDER: dict[float, Shape] = {
    # billions of parameters as tables print them: shape from the model's published config
    1.84: _older("qwen-1.8b", 2048, 24, 16, 5504, 151936),
    7.72: _older("qwen-7b", 4096, 32, 32, 11008, 151936),
    14.17: _older("qwen-14b", 5120, 40, 40, 13696, 152064),
    72.3: _older("qwen-72b", 8192, 80, 64, 24576, 152064),
    6.74: _older("llama-2-7b", 4096, 32, 32, 11008, 32000),
    13.0: _older("llama-2-13b", 5120, 40, 40, 13824, 32000),
    69.0: _older("llama-2-70b", 8192, 80, 64, 28672, 32000),
    2.85: _older("t5-3b", 1024, 24, 16, 16384, 32128, 24),
    12.9: _older("mt5-xxl", 4096, 24, 64, 10240, 250112, 24),
    7.07: _older("bloom-7b1", 4096, 30, 32, 16384, 250880),
}
ALIKE = 0.015
"""How far the size that a row prints may be from a model's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A measured peak in bytes; None where it did not fit."""

    source: str
    hardware: str
    run: Training
    device: Accelerator
    paged: bool
    untold: bool
    measured: float | None


def peak_of(row: Row) -> Peak:
    """What a row tells of. Raises `Skipped` where it tells too little."""
    device = device_of("RTX4090-24GB" if "24GB-class" in row["hardware"] else row["hardware"])
    size = number(row, "params_b")
    if not size > 0:
        raise Skipped("parameters not told")
    notes, optimizer = row["notes"], row["optimizer"].lower()
    method = _method(row["method"])
    told = row["activation_checkpointing"].lower()
    precision: Precision = "fp32" if "fp32" in row["precision"] else "bf16" if _pure(row) else "mixed"
    run = Training(
        shape=_shape(size * 1e9), method=method, optimizer=_optimizer(optimizer), precision=precision,
        tokens=_tokens(row), trainable=_trainable(row, size * 1e9), rank=_rank(notes),
        fused_head=_after(notes, "chunked CE") or ("torchtune" in row["source"] and "compile" in notes),
        fused_update="in-bwd" in optimizer or "single-device" in optimizer,
        stack=_stack(row), layout=_layout(row, told.startswith("true")),
    )  # fmt: skip
    return Peak(
        source=row["source"].split("@")[0], hardware=row["hardware"], run=run, device=device,
        paged="paged" in optimizer, untold=not told, measured=_measured(row),
    )  # fmt: skip


def predicted(peak: Peak, c: Coefficients | None = None) -> float:
    """Bytes at the peak. Where checkpointing is untold, it is used when the device is too small without."""
    found = peak_memory(peak.run, c).peak
    if peak.paged:  # optimizer state moves to the host as far as it must
        return min(found, PAGED * capacity(peak.device))
    if peak.untold and found > capacity(peak.device):
        again = replace(peak.run, layout=replace(peak.run.layout, checkpointing=1.0))
        return peak_memory(again, c).peak
    return found


PAGED = 0.85
"""How full a device is kept by states that page out."""
UNTOLD_LENGTH = 256.0


def _measured(row: Row) -> float | None:
    peak = number(row, "peak_mem_gb")
    if "OOM" in row["peak_mem_gb"]:
        return None
    if not peak > 0:
        raise Skipped("peak not told")
    return peak * 1e9


def _shape(size: float) -> Shape:
    known = [*known_models().values(), *OLDER.values()]
    printed = [parameters(shape) - shape.vision for shape in known_models().values()] + [b * 1e9 for b in OLDER]
    near = min(range(len(known)), key=lambda place: abs(printed[place] / size - 1))
    if abs(printed[near] / size - 1) < ALIKE:
        return known[near]
    width = round((size * 128 / 12) ** (1 / 3))
    layers = max(1, round(size / 12 / width**2))
    return _older("unknown", width, layers, max(1, width // 128), round(width * 8 / 3), 64_000)


def _method(text: str) -> Method:
    return "full" if text in ("full", "sft", "pretrain") else "qlora" if text == "qlora" else "lora"


def _optimizer(text: str) -> Optimizer:
    return "adamw-8bit" if "8bit" in text else "sgd" if text.startswith("sgd") else "adamw"


def _pure(row: Row) -> bool:
    """Whether weights, gradients and states are in 16 bits, as torchtune's and PEFT's scripts hold them."""
    return "torchtune" in row["source"] or "MetaMathQA" in row["source"]


def _stack(row: Row) -> Stack:
    return "tuned" if "compile" in row["notes"] or _after(row["notes"], "compile") else "general"


ABLATION = ("baseline", "packed", "compile", "chunked CE", "activation checkpointing", "optimizer in bwd",
            "activation offload", "8-bit AdamW", "LoRA", "QLoRA")  # fmt: skip


def _after(notes: str, what: str) -> bool:
    """Whether a cumulative ablation has come to `what`."""
    found = re.search(r"cumulative ablation: \+?([^;]+);", notes)
    step = found[1].strip() if found else ""
    return step in ABLATION and ABLATION.index(step) >= ABLATION.index(what)


def _tokens(row: Row) -> float:
    length, many = number(row, "seq_len"), number(row, "micro_batch")
    length = length if length > 0 else UNTOLD_LENGTH
    if "baseline" in row["notes"]:
        length *= 0.1  # padded to the longest, and short
    return length * (many if many > 0 else 1.0)


def _trainable(row: Row, size: float) -> float | None:
    found = re.search(r"trainable (\d+)", row["notes"])
    if found:
        return float(found[1])
    if "emb" in row["method"] or "(emb)" in row["notes"]:
        shape = _shape(size)
        # A second copy of embedding and head in 16 bits with its states: three quarters of what mixed precision takes.
        return adapter_parameters(shape, _rank(row["notes"])) + 0.75 * 2 * shape.vocabulary * shape.width
    return None


def _rank(notes: str) -> int:
    found = re.search(r"rank ?(\d+)", notes)
    return int(found[1]) if found else 64 if re.match(r"(Q-)?LoRA", notes) else 16


def _layout(row: Row, again: bool) -> Layout:
    found = re.search(r"(\d+) GPU", row["notes"])
    devices = int(found[1]) if found else 1
    sharding: Sharding = "zero2" if "multinode" in row["notes"] else "zero3" if devices > 1 else "none"
    again = again or ("torchtune" in row["source"] and devices > 1)  # its recipes for several devices do
    return Layout(
        devices=devices, sharding=sharding, checkpointing=float(again),
        offload="offload" in (row["optimizer"] + row["notes"]).lower() and "activation offload" not in row["notes"],
    )  # fmt: skip
