"""ONNX Runtime: the generator of GenAI for decoders, two graphs for encoder-decoders.

Both keep what they have read, so that a step reads one token.

Shape letters: L layers, B batch (1), H heads, P tokens that the cache holds, K width of a head.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from instil.core.errors import ModelError
from instil.export.engines.engine import StepwiseEngine
from instil.models.folders import first_line

_ROOM = 512
_FATAL = 4
"""The least that ONNX Runtime logs; its errors are raised besides."""


class OnnxEngine(StepwiseEngine):
    """An export to ONNX on the CPU."""

    weights = ("*.onnx", "*.onnx.data")

    def __init__(self, folder: Path, *, threads: int = 0) -> None:
        """`threads` of one computation, 0 for as many as torch takes. Raises `ModelError` for files that ONNX Runtime
        does not load."""
        super().__init__(folder)
        reader: Any = _Decoder if self.sheet.kind == "decoder-only" else _EncoderDecoder
        try:
            self._reader = reader(folder, threads or torch.get_num_threads())
        except ModuleNotFoundError:
            raise
        # ONNX Runtime's errors have no class in common.
        except Exception as error:
            raise ModelError(
                f"{folder}: ONNX Runtime cannot load it ({first_line(error)}); export the student again"
            ) from error
        self.positions = self._reader.positions or self.sheet.positions

    def following(self, prompt: list[int], read: list[int]) -> Any:
        """Logits of the token behind `read`."""
        try:
            return self._reader.following(prompt, read)
        except Exception as error:
            raise ModelError(f"{self.name}: ONNX Runtime refuses ({first_line(error)})") from error


class _Decoder:
    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime_genai

        self._library = onnxruntime_genai
        config = onnxruntime_genai.Config(str(folder))
        options = {"intra_op_num_threads": threads, "log_severity_level": _FATAL}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = onnxruntime_genai.Model(config)
        settings = json.loads((folder / "genai_config.json").read_text(encoding="utf8"))
        self.positions: int = settings["model"]["context_length"]
        self._generator: Any = None
        self._read: list[int] = []
        self._room = 0

    def following(self, prompt: list[int], read: list[int]) -> Any:
        rest = _rest(read, self._read)
        if rest is None or len(read) > self._room:
            self._begin(len(read))
            rest = read
        self._generator.append_tokens(np.array([rest], dtype=np.int32))
        self._read = list(read)
        return self._generator.get_logits()[0, -1]

    def _begin(self, length: int) -> None:
        # The cache is as large as the longest text that it may come to hold.
        self._room = max(length, min(length + _ROOM, self.positions))
        settings = self._library.GeneratorParams(self._model)
        settings.set_search_options(max_length=self._room)
        self._generator = self._library.Generator(self._model, settings)


class _EncoderDecoder:
    positions: int | None = None

    def __init__(self, folder: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, _FATAL
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "decoder.onnx")
        )
        self._prompt: list[int] = []
        self._read: list[int] = []
        self._source: Any = None
        self._written_LBHPK: Any = None

    def following(self, prompt: list[int], read: list[int]) -> Any:
        rest = _rest(read, self._read)
        if rest is None or prompt != self._prompt:
            self._source = self._encoder.run(None, {"ids": np.array([prompt])})
            self._written_LBHPK = [cache[..., :0, :] for cache in self._source]
            rest = read
        for token in rest:
            keys, values = self._written_LBHPK
            given = {"source_keys": self._source[0], "source_values": self._source[1], "keys": keys, "values": values}
            logits_BTV, *self._written_LBHPK = self._decoder.run(None, {"ids": np.array([[token]]), **given})
        self._prompt, self._read = list(prompt), list(read)
        return logits_BTV[0, -1]


def _rest(read: list[int], known: list[int]) -> list[int] | None:
    """What stands in `read` behind `known`; None where it does not go on from there."""
    return read[len(known) :] if known and len(read) > len(known) and read[: len(known)] == known else None
