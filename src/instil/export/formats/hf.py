"""The format of transformers itself: safetensors in another precision, with prompt and settings beside them."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from instil.export.student import Student
from instil.models.folders import write_model

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def write(student: Student, precision: str, folder: Path) -> None:
    """Write the model in `precision` as `model.safetensors`."""
    model, dtype = student.loaded.model, DTYPES[precision]
    if model.dtype != dtype:
        model = copy.deepcopy(model).to(dtype)
    write_model(model, None, folder)
