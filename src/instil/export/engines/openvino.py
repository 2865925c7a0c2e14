"""OpenVINO, over an export that reads the whole text at each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from instil.export.engines.engine import StepwiseEngine


class OpenVinoEngine(StepwiseEngine):
    """An export to OpenVINO, computed in 32 bits."""

    weights = ("model.bin",)

    def __init__(self, folder: Path, *, threads: int = 0, device: str = "CPU") -> None:
        """`threads` of one computation, 0 for as many as OpenVINO takes."""
        super().__init__(folder)
        how: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"} | (
            {"INFERENCE_NUM_THREADS": threads} if threads else {}
        )
        self._model = openvino.Core().compile_model(folder / "model.xml", device, how)

    def following(self, prompt: list[int], read: list[int]) -> Any:
        """Logits of the token behind `read`."""
        given = [read] if self.sheet.kind == "decoder-only" else [prompt, read]
        (logits_BTV,) = self._model([np.array([ids]) for ids in given]).values()
        return logits_BTV[0, -1]
