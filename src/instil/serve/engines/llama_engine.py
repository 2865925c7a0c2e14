"""llama.cpp through xllamacpp: continuous batching, and speculative decoding with a student as its teacher's draft."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xllamacpp

from instil.core.errors import ModelError
from instil.export.engines.llama_cpp import forbidding
from instil.export.sheet import SHEET_NAME, read_sheet
from instil.models.loading import load_tokenizer
from instil.serve.engines.base import FAULT, Engine, EngineFacts, room_of
from instil.serve.jobs import Ended, Job

_QUIET = -1


class LlamaEngine(Engine):
    """One GGUF file. Its own server puts running requests into one batch at every token.

    `draft`: the GGUF file of a smaller model with the same vocabulary; it writes up to `draft_tokens` ahead, and the
    model keeps those that it would have written itself, so the text is the same.
    """

    def __init__(
        self, path: Path, *, batch: int = 16, threads: int | None = None, context: int = 2048,
        draft: Path | None = None, draft_tokens: int,
    ) -> None:  # fmt: skip
        self.tokenizer = load_tokenizer(path.parent, str(path), gguf=path)
        sheet = read_sheet(path.parent) if (path.parent / SHEET_NAME).is_file() else None
        self._never = forbidding(sheet.alphabet) if sheet else {}
        params = _params(path, batch, threads, context)
        if draft is not None:
            params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
            params.speculative.draft.mparams.path = str(draft)
            params.speculative.draft.n_max = draft_tokens
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            beside = f" with the draft {draft}" if draft else ""
            raise ModelError(
                f"{path}: llama.cpp cannot load it{beside} ({error}); export the model again"
                + (", or serve without the draft: both need the same vocabulary" if draft else "")
            ) from error
        self.drafted = self.accepted = 0
        self._counting = threading.Lock()
        self.facts = EngineFacts(
            "llama.cpp" + (f" with the draft {draft.stem}" if draft else ""), "decoder-only", path.stat().st_size,
            workers=batch, positions=room_of(sheet.positions if sheet else None, context),
        )  # fmt: skip

    def run(self, jobs: Sequence[Job]) -> None:
        """Each job by itself: the server batches what its threads bring."""
        for job in jobs:
            heard = _Reply(job)
            if job.limit:
                self._server.handle_completions(_request(job) | self._never, heard)
            heard.finish()
            self._count(heard.timings)

    def _count(self, timings: Mapping[str, Any]) -> None:
        with self._counting:
            self.drafted += int(timings.get("draft_n", 0))
            self.accepted += int(timings.get("draft_n_accepted", 0))

    def close(self) -> None:
        """End its server."""
        del self._server


class _Reply:
    """What the server tells of one job. True from a call ends it there."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.timings: Mapping[str, Any] = {}
        self.ended: Ended = "stop"
        self.error = ""
        self.at_fault = False

    def __call__(self, reply: Any) -> bool:
        if "error" in reply:
            self.error = str(reply["error"].get("message", reply["error"]))
            self.at_fault = reply["error"].get("code", FAULT) >= FAULT
            return True
        self.timings = reply.get("timings", self.timings)
        choice = reply["choices"][0]
        if choice["finish_reason"] is None:
            self.job.take(choice["text"])
        else:  # The last one only says why it ended.
            self.ended = choice["finish_reason"]
        return self.job.cancelled or self.job.stopped

    def finish(self) -> None:
        if self.at_fault:
            raise RuntimeError(self.error)
        if self.error:
            raise ModelError(f"llama.cpp: {self.error}")
        if "predicted_n" in self.timings:
            self.job.told(self.timings["predicted_n"], self.ended)
        self.job.finish()


def _params(path: Path, batch: int, threads: int | None, context: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = batch
    params.n_ctx = context * batch
    params.verbosity = _QUIET
    if threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    return params


def _request(job: Job) -> dict[str, Any]:
    how: dict[str, Any] = {"temperature": job.sampling.temperature, "top_p": job.sampling.top_p, "top_k": 0}
    if job.sampling.greedy:
        how = {"temperature": 0, "top_k": 1, "samplers": ["top_k"]}
    if job.sampling.seed is not None:
        how["seed"] = job.sampling.seed
    # A text that is cut at one of its stops has no last reply, so that every reply must count.
    return {
        "prompt": job.ids, "n_predict": job.limit, "stream": True, "timings_per_token": bool(job.stops), **how,
    }  # fmt: skip
