"""Rows of published training runs, read into what the time model takes: `Load`, `Batch`, `Layout`, a device, a stack.

Columns that are empty are filled from the others: layers and width from the parameters (twelve squared widths a layer,
the width 128 times the layers), tokens a second from the step's time or from the printed utilisation (six FLOPs a
parameter and full attention, the convention of those who print it).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instil.core.errors import ConfigError, DataError
from instil.plan.hardware import Accelerator, accelerators, named_like
from instil.plan.layout import Layout, Sharding
from instil.plan.time import Batch, Load, Stack

Row = dict[str, str]
CAP_SHARE = 0.45
"""How full batches of variable length are where only the cap is told."""
FIRST_KERNELS = 2.0
"""How much longer the first fused attention kernels took, those that ALiBi needs among them, than FlashAttention 2 (Dao
2023, arXiv 2307.08691)."""
USUAL_TOKENS = 8192
"""Tokens of a micro-batch where none is told."""
NEEDED = ("source", "hardware", "n_accelerators", "params_b", "seq_len", "precision", "tokens_per_s_per_device")
SIXTEEN = re.compile(r"bf16|fp16|bfloat16|float16")
FEWER = re.compile(r"fp8|fp4|nf4|int\d|mxfp|gptq")
GENERAL = ("lora", "qlora", "lora+emb", "peft-other")
GENERAL_SOURCES = ("qwenlm", "huggingface", "axolotl", "trl", "unsloth", "llama-factory", "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A measured run: what it was, and the tokens a second of a device that it reached."""

    row_id: str
    source: str
    hardware: str
    load: Load
    batch: Batch
    layout: Layout
    device: Accelerator
    stack: Stack
    measured: float


LEAST_ALIKE = 4
"""Letters at least that a device's name shares with one that is known."""
DOUBTFUL = ("implausible", "unclear", "unpacked")
"""Flags of rows whose meaning, not whose speed, is in doubt."""


class Skipped(Exception):
    """Why a row cannot be predicted."""


def read_rows(path: Path) -> list[Row]:
    """The table of training runs at `path`."""
    return read_table(path, NEEDED)


def read_table(path: Path, needed: Sequence[str]) -> list[Row]:
    """The table at `path`. Raises `DataError` when it is none, or lacks a column."""
    try:
        with path.open(encoding="utf8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); name a CSV file") from error
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: has no column {', '.join(missing)}; see docs/plan.md for the columns")
    return rows


def outside(row: Row) -> str:
    """Why a row is not of the kind that the model is calibrated on: dense, in bf16 or fp16. Empty where it is."""
    precision = row["precision"].lower()
    if not SIXTEEN.search(precision) or FEWER.search(precision):
        return f"precision {row['precision']}: calibrated on bf16 and fp16"
    if row.get("active_params_b") or re.search(r"\bEP\d", row.get("parallelism", "")):
        return "mixture of experts: calibrated on dense models"
    return ""


def is_dense_16(row: Row) -> bool:
    """Whether the time model is calibrated on rows like this one."""
    return not outside(row)


def run_of(row: Row) -> Run:
    """The run that a row tells of. Raises `Skipped` with the reason where it tells too little."""
    flag = row.get("quality_flag", "")
    if any(word in flag for word in DOUBTFUL):
        raise Skipped(f"flagged: {flag}")
    parameters = number(row, "params_b") * 1e9
    if not parameters > 0:
        raise Skipped("parameters not told")
    device = device_of(row["hardware"])
    if "TCPX" in row.get("parallelism", ""):
        device = replace(device, network=12.5e9)  # four adapters of 200 Gbit/s a node
    length = number(row, "seq_len")
    length = length if length > 0 else 2048.0
    layers, width = _depth_and_width(row, parameters)
    layout = _layout(row, device, parameters)
    batch = _batch(row, length, layout)
    attention = 2 * layers * width * batch.length * (FIRST_KERNELS if "MPT arch" in row.get("notes", "") else 1)
    load = Load(
        products=2 * (number(row, "active_params_b") * 1e9 if row.get("active_params_b") else parameters),
        attention=attention, parameters=parameters, trainable=_trainable(row, parameters), layers=layers, width=width,
        backward=1.0 if row.get("method", "") in GENERAL else 2.0,
        scores=_scores(row, length, width),
    )  # fmt: skip
    return Run(
        row_id=row.get("row_id", ""), source=row.get("source_group") or row["source"].split("@")[0],
        hardware=row["hardware"], load=load, batch=batch, layout=layout, device=device, stack=_stack(row),
        measured=_measured(row, load, device, length),
    )  # fmt: skip


def _scores(row: Row, length: float, width: int) -> float:
    """Scores a token where attention is not fused: heads of 64 to 128 over the whole length."""
    unfused = any(name in row.get("notes", "") + row["source"] for name in ("Megatron-DeepSpeed", "eager attention:"))
    return length * width / 96 if unfused else 0.0


def number(row: Row, name: str) -> float:
    """A cell as a number; not a number where it is empty or words."""
    try:
        return float(row.get(name) or "nan")
    except ValueError:
        return math.nan


def _devices(row: Row) -> int:
    told = number(row, "n_accelerators")
    return int(told) if told >= 1 else 1


def device_of(name: str) -> Accelerator:
    """The accelerator of that name, or the one whose name begins most alike: "H100-SXM5-80GB-500W" is an H100-SXM."""
    try:
        return named_like("A100-SXM-80GB" if name == "A100" else name)
    except ConfigError:
        known = {each: _alike(each, name) for each in accelerators()}
        best = max(known, key=lambda each: known[each])
        if known[best] < LEAST_ALIKE:
            raise Skipped(f"no data sheet of {name}") from None
        return accelerators()[best]


def _alike(one: str, other: str) -> int:
    """How many letters two names begin with in common."""
    pairs = enumerate(zip(one.upper(), other.upper(), strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _depth_and_width(row: Row, parameters: float) -> tuple[int, int]:
    layers, width = number(row, "n_layers"), number(row, "d_model")
    if layers > 0 and width > 0:
        return int(layers), int(width)
    guess = (parameters * 128 / 12) ** (1 / 3)
    return max(1, round(parameters / 12 / guess**2)), round(guess)


def _trainable(row: Row, parameters: float) -> float:
    return parameters * 0.01 if row.get("method", "") in GENERAL else parameters


def _stack(row: Row) -> Stack:
    if row.get("method", "") in GENERAL:
        return "general"
    source = row["source"].lower()
    return "general" if any(name in source for name in GENERAL_SOURCES) else "tuned"


def _axis(text: str, name: str) -> int:
    found = re.search(rf"\b{name}\s*=?\s*(\d+)", text)
    return max(1, int(found[1])) if found else 1


def _again(row: Row, device: Accelerator, parameters: float) -> float:
    """Share of the forward pass that is done again. Untold, it is all where weights and Adam leave little room."""
    told = str(row.get("activation_checkpointing", "")).lower()
    if told:
        return 1.0 if told.startswith("true") or "full" in told else 0.2 if "remat" in told else 0.0
    held = (2 if row.get("method", "") in GENERAL else 16) * parameters / _devices(row)
    return 1.0 if held > 0.4 * device.memory else 0.0


def _layout(row: Row, device: Accelerator, parameters: float) -> Layout:
    text = row.get("parallelism", "")
    devices = _devices(row)
    return Layout(
        devices=devices, tensor=_axis(text, "TP"), pipeline=_axis(text, "PP"), context=_axis(text, "CP"),
        interleave=_axis(text, "VP"), sharding=_sharding(text, device), group=_group(text, devices, device),
        checkpointing=_again(row, device, parameters),
        offload="offload" in row.get("notes", "").lower() and "optimizer" in row.get("notes", "").lower(),
    )  # fmt: skip


def _sharding(text: str, device: Accelerator) -> Sharding:
    upper = text.upper()
    if not re.search(r"[TPD]P\d|FSDP|SHARD|ZERO|SINGLE|TUNED|DDP", upper):
        return "zero3"  # what the frameworks that tell nothing do by themselves
    if re.search(r"FSDP|FULL_SHARD|ZERO-?3", upper) or (device.is_tpu and "DP" not in upper.replace("FSDP", "")):
        return "zero2" if "SHARD_GRAD_OP" in upper else "zero3"
    return "zero2" if "SHARD_GRAD_OP" in upper or re.search(r"ZERO-?2", upper) else "zero1"


def _group(text: str, devices: int, device: Accelerator) -> int:
    slices = re.search(r"(\d+) slice", text)
    if slices:
        return max(1, devices // int(slices[1]) // _axis(text, "TP"))
    return min(devices, device.node) if device.is_tpu else 0


def _batch(row: Row, length: float, layout: Layout) -> Batch:
    """Sequences in a micro-batch, and micro-batches in a step where the global batch is told."""
    if "well below" in row.get("notes", "") or "cap" in row.get("notes", "").lower().split():
        length *= CAP_SHARE
    sequences = number(row, "micro_batch")
    sequences = sequences if sequences > 0 else max(1.0, USUAL_TOKENS / length)
    whole = number(row, "global_batch_tokens")
    many = whole / (length * sequences * layout.replicas) if whole > 0 else 8.0 if layout.pipeline > 1 else 1.0
    return Batch(length=length, sequences=sequences, micro_batches=max(1.0, many))


def _measured(row: Row, load: Load, device: Accelerator, length: float) -> float:
    told = number(row, "tokens_per_s_per_device")
    if told > 0:
        return told
    seconds, whole = number(row, "step_time_s"), number(row, "global_batch_tokens")
    if seconds > 0 and whole > 0:
        return whole / seconds / _devices(row)
    rate = number(row, "model_tflops_per_s_per_device") * 1e12
    rate = rate if rate > 0 else number(row, "mfu") * device.peak
    if not rate > 0:
        raise Skipped("neither tokens a second, nor a step's time, nor utilisation told")
    return rate / (3 * load.products + 12 * load.layers * load.width * length)
