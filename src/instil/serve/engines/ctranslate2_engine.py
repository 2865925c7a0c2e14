"""CTranslate2: both families, quantised weights, batches that are put together as requests come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch

from instil.core.errors import ModelError
from instil.export.engines.ctranslate2 import CTranslate2Engine as Exported
from instil.serve.engines.base import Engine, EngineFacts, Writer, room_of
from instil.serve.engines.scores import token_scores
from instil.serve.jobs import Job, TokenScore


class CTranslate2Engine(Engine):
    """An export to CTranslate2, fed with batches of requests."""

    def __init__(
        self, folder: Path, *, device: str = "cpu", batch: int = 16, threads: int | None = None, context: int = 2048
    ) -> None:
        try:
            self._export = Exported(folder, device=device, threads=threads or 0)
        except RuntimeError as error:
            raise ModelError(f"{folder}: CTranslate2 cannot load it ({error}); export the model again") from error
        self.tokenizer = self._export.tokenizer
        self._model = self._export.model
        self._ends = frozenset(self._export.sheet.alphabet.ends)
        kind = self._export.sheet.kind
        self.facts = EngineFacts(
            f"ctranslate2 ({self._model.compute_type})", kind, self._export.bytes, batch=batch,
            positions=room_of(self._export.positions, context), can_score=kind == "decoder-only",
        )  # fmt: skip

    def run(self, jobs: Sequence[Job]) -> None:
        """One batch, searched as the first job asks."""
        writers = [Writer(job, self.tokenizer, self._ends) for job in jobs]
        # A prompt of one token makes CTranslate2 4.8 take the longer prompts of its batch for text that was written.
        for alone in (True, False):
            if some := [writer for writer in writers if (len(writer.job.ids) == 1) is alone and writer.job.limit]:
                self._write(some)
        for job, writer in zip(jobs, writers, strict=True):
            writer.rest()
            job.finish(() if job.scores is None else self._scores(job, writer.ids))

    def _write(self, writers: Sequence[Writer]) -> None:
        jobs = [writer.job for writer in writers]
        sampling, wanted = jobs[0].sampling, max(job.limit for job in jobs)

        def hear(step: Any) -> bool:
            return writers[step.batch_id].take(step.token_id)

        how: dict[str, Any] = {"callback": hear}
        if not sampling.greedy:
            how |= {"sampling_topk": 0, "sampling_topp": sampling.top_p, "sampling_temperature": sampling.temperature}
            if sampling.seed is not None:
                ctranslate2.set_random_seed(sampling.seed)
        self._export.run([job.ids for job in jobs], wanted, **how)

    def _scores(self, job: Job, written: list[int]) -> tuple[TokenScore, ...]:
        ids = [*job.ids, *written[: job.new_tokens]]
        log_probs_BTV = np.array(self._model.forward_batch([ids], return_log_probs=True))
        first = 0 if job.echo else len(job.ids)
        return token_scores(torch.from_numpy(log_probs_BTV[0]), ids, first, job.scores or 0, self.tokenizer)

    def close(self) -> None:
        """Free the weights."""
        self._model.unload_model()
