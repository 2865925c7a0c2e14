"""CTranslate2: both families, quantised weights, batches that are put together as requests come."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch

from instil.core.errors import ModelError
from instil.data.tokens import Kind
from instil.models.loading import load_tokenizer
from instil.serve.engines.base import EngineFacts, Writer, memory_of_files
from instil.serve.engines.scores import token_scores
from instil.serve.jobs import Job, TokenScore

WEIGHTS = "model.bin"
_SPEC = struct.Struct("<IH")
"""How model.bin begins: its format's version, then the length of the name of the model's form, then that name."""

_FORMS: dict[str, Kind] = {"TransformerSpec": "encoder-decoder", "TransformerDecoderSpec": "decoder-only"}


def kind_of(folder: Path) -> Kind:
    """The family of the CTranslate2 model in `folder`. Raises `ModelError` for another file of that name."""
    try:
        with (folder / WEIGHTS).open("rb") as file:
            _, length = _SPEC.unpack(file.read(_SPEC.size))
            name = file.read(length).rstrip(b"\0").decode("ascii")
    except (struct.error, ValueError) as error:
        raise ModelError(f"{folder / WEIGHTS}: is no CTranslate2 model; export it again") from error
    if name not in _FORMS:
        raise ModelError(f"{folder}: holds no model that turns text into text (its form is {name!r}); export it again")
    return _FORMS[name]


class CTranslate2Engine:
    """One exported model with its tokenizer beside it."""

    def __init__(
        self, folder: Path, *, device: str = "cpu", batch: int = 16, threads: int | None = None,
        positions: int | None = None,
    ) -> None:  # fmt: skip
        kind = kind_of(folder)
        self.tokenizer = load_tokenizer(folder, str(folder))
        self._ends = _ends(folder, self.tokenizer)
        load = ctranslate2.Translator if kind == "encoder-decoder" else ctranslate2.Generator
        try:
            self._model = load(str(folder), device=device, intra_threads=threads or 0)
        except RuntimeError as error:
            raise ModelError(f"{folder}: CTranslate2 cannot load it ({error}); export the model again") from error
        self.facts = EngineFacts(
            f"ctranslate2 ({self._model.compute_type})", kind, memory_of_files(folder), batch,
            positions=positions, can_score=kind == "decoder-only",
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

        how: dict[str, Any] = {"beam_size": 1, "callback": hear, "end_token": sorted(self._ends)}
        if not sampling.greedy:
            how |= {"sampling_topk": 0, "sampling_topp": sampling.top_p, "sampling_temperature": sampling.temperature}
            if sampling.seed is not None:
                ctranslate2.set_random_seed(sampling.seed)
        tokens = [self.tokenizer.convert_ids_to_tokens(job.ids) for job in jobs]
        if self.facts.kind == "encoder-decoder":
            self._model.translate_batch(tokens, max_decoding_length=wanted, max_input_length=0, **how)
        else:
            self._model.generate_batch(tokens, max_length=wanted, include_prompt_in_result=False, **how)

    def _scores(self, job: Job, written: list[int]) -> tuple[TokenScore, ...]:
        ids = [*job.ids, *written[: job.new_tokens]]
        log_probs_BTV = np.array(self._model.forward_batch([ids], return_log_probs=True))
        first = 0 if job.echo else len(job.ids)
        return token_scores(torch.from_numpy(log_probs_BTV[0]), ids, first, job.scores or 0, self.tokenizer)

    def close(self) -> None:
        """Free the weights."""
        self._model.unload_model()


def _ends(folder: Path, tokenizer: Any) -> frozenset[int]:
    path = folder / "generation_config.json"
    own = json.loads(path.read_text(encoding="utf8")).get("eos_token_id") if path.is_file() else None
    ends = own if isinstance(own, list) else [own]
    return frozenset(int(end) for end in [*ends, tokenizer.eos_token_id] if end is not None)
