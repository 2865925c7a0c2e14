"""The reference: transformers itself, in batches. Every model that instil can load runs here, on any device of torch.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from instil.data.prompts import Prompt
from instil.models.adapters import load_adapter
from instil.models.generation import TransformersGenerator
from instil.models.loading import load_model
from instil.serve.engines.base import Engine, EngineFacts, Writer
from instil.serve.engines.scores import token_scores
from instil.serve.jobs import Job, TokenScore


class _Watch(StoppingCriteria):
    """Hands each row's newest token to its writer, and stops the rows whose writers have enough."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self.writers = writers
        self.done = [False] * len(writers)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        for row, token in enumerate(input_ids[:, -1].tolist()):
            self.done[row] = self.done[row] or self.writers[row].take(token)
        return torch.tensor(self.done, device=input_ids.device)


class TransformersEngine(Engine):
    """One model in torch. It alone can score prompts of any model."""

    def __init__(
        self, ref: str, *, adapter: Path | None = None, device: str = "cpu", batch: int = 16,
        threads: int | None = None, context: int = 2048,
    ) -> None:  # fmt: skip
        """`context`: the room of a model that has no places of its own, such as T5."""
        if threads is not None:
            torch.set_num_threads(threads)
        found = load_model(ref, device=device)
        if adapter is not None:
            found = load_adapter(found, adapter)
        self._model: Any = found.model
        self._inner = TransformersGenerator(found.model, found.tokenizer, Prompt(), name=ref, max_source_tokens=None)
        self.tokenizer = self._inner.tokenizer
        self._ends = frozenset(self._inner.ends)
        config = self._model.config.get_text_config(decoder=True)
        self.facts = EngineFacts(
            "transformers", self._inner.kind, self._inner.bytes, batch=batch,
            positions=getattr(config, "max_position_embeddings", None) or context, can_score=True,
        )  # fmt: skip

    def run(self, jobs: Sequence[Job]) -> None:
        """One batch, searched as the first job asks."""
        writers = [Writer(job, self.tokenizer, self._ends) for job in jobs]
        if some := [writer for writer in writers if writer.job.limit]:
            self._write(some)
        for job, writer in zip(jobs, writers, strict=True):
            writer.rest()
            job.finish(() if job.scores is None else self._scores(job, writer.ids))

    def _write(self, writers: Sequence[Writer]) -> None:
        jobs = [writer.job for writer in writers]
        sampling, wanted = jobs[0].sampling, max(job.limit for job in jobs)
        how: dict[str, Any] = {"do_sample": False}
        if not sampling.greedy:
            how = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        with torch.random.fork_rng(enabled=sampling.seed is not None):
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            self._inner.write_ids([job.ids for job in jobs], self._inner.search(wanted, **how), _watching(writers))

    @torch.inference_mode()
    def _scores(self, job: Job, written: list[int]) -> tuple[TokenScore, ...]:
        """Of the tokens written, and with `echo` of the prompt's before them, whose first has none."""
        model = self._model
        device = model.get_input_embeddings().weight.device
        written = written[: job.new_tokens]
        if self.facts.kind == "encoder-decoder":
            start = model.generation_config.decoder_start_token_id
            ids, first = [start, *written], 1
            read = {"input_ids": torch.tensor([job.ids], device=device)}
            logits_TV = model(**read, decoder_input_ids=torch.tensor([ids], device=device)).logits[0]
        else:
            ids, first = [*job.ids, *written], 0 if job.echo else len(job.ids)
            logits_TV = model(input_ids=torch.tensor([ids], device=device)).logits[0]
        log_probs_TV = torch.log_softmax(logits_TV[:-1].float(), -1)
        return token_scores(log_probs_TV, ids, first, job.scores or 0, self.tokenizer)

    def close(self) -> None:
        """Nothing was started."""


def _watching(writers: Sequence[Writer]) -> StoppingCriteriaList:
    return StoppingCriteriaList([_Watch(writers)])


def device_of(wanted: str) -> str:
    """The torch device that `wanted` means: "auto" is the machine's accelerator, else the CPU."""
    if wanted != "auto":
        return wanted
    found = torch.accelerator.current_accelerator()
    return str(found) if found is not None else "cpu"
