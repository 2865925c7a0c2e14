"""Exports that are asked for a token at a time (ONNX Runtime, OpenVINO): one text after the other, on the CPU.

Shape letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instil.core.errors import ModelError
from instil.export.engines import open_engine
from instil.export.engines.engine import StepwiseEngine as Exported
from instil.serve.engines.base import Engine, EngineFacts, Writer, room_of
from instil.serve.jobs import Job, Sampling


class StepwiseEngine(Engine):
    """An export to ONNX or OpenVINO."""

    def __init__(self, folder: Path, *, threads: int | None = None, context: int = 2048) -> None:
        export = open_engine(folder, threads=threads or 0)
        if not isinstance(export, Exported):
            raise ModelError(f"{folder}: {export.sheet.format} is not asked for a token at a time; leave --engine out")
        self._export = export
        self.tokenizer = export.tokenizer
        self._ends = frozenset(export.sheet.alphabet.ends)
        self.facts = EngineFacts(
            export.sheet.format, export.sheet.kind, export.bytes, positions=room_of(export.positions, context)
        )  # fmt: skip

    def run(self, jobs: Sequence[Job]) -> None:
        """Each job for itself."""
        for job in jobs:
            writer = Writer(job, self.tokenizer, self._ends)
            if job.limit:
                self._write(job, writer)
            writer.rest()
            job.finish()

    def _write(self, job: Job, writer: Writer) -> None:
        export, generator = self._export, np.random.default_rng(job.sampling.seed)
        if any(writer.take(token) for token in export.forced):
            return

        def choose(logits_V: NDArray[Any]) -> int:
            return chosen(logits_V, job.sampling, generator)

        for token, _ in export.going_on(job.ids, choose, export.forced, export.sheet.alphabet.banned):
            if writer.take(token):
                return

    def close(self) -> None:
        """Free the weights."""
        del self._export


def chosen(logits_V: NDArray[Any], sampling: Sampling, generator: np.random.Generator) -> int:
    """The likeliest id, or one drawn among the likeliest that together reach `top_p`."""
    if sampling.greedy:
        return int(logits_V.argmax())
    order_V = np.argsort(-logits_V, kind="stable")
    wide_V = (logits_V[order_V].astype(np.float64) - logits_V.max()) / sampling.temperature
    probs_V = np.exp(wide_V) / np.exp(wide_V).sum()
    count = int(np.searchsorted(probs_V.cumsum(), sampling.top_p)) + 1
    kept_K = probs_V[:count]
    return int(generator.choice(order_V[:count], p=kept_K / kept_K.sum()))
