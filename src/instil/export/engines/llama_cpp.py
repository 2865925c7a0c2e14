"""llama.cpp, through xllamacpp: decoder-only models in GGUF, a few texts at once by continuous batching."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
import xllamacpp

from instil.core.errors import ModelError
from instil.data.tokens import tokenize_prompts
from instil.export.engines.engine import TOLD, Engine, Trace
from instil.export.sheet import Alphabet

_TOGETHER = 4
_CONTEXT = 2048


def forbidding(alphabet: Alphabet) -> dict[str, Any]:
    """What a request says so that the banned tokens are not written."""
    return {"logit_bias": [[token, False] for token in alphabet.banned]}


class LlamaCppEngine(Engine):
    """An export to GGUF on the CPU. The model has its own tokenizer, which `reads_alike` holds against the student's;
    what is written is read by the student's in any case."""

    weights = ("*.gguf",)

    def __init__(self, folder: Path, *, threads: int = 0, context: int = _CONTEXT) -> None:
        """`threads` of one computation, 0 for as many as torch takes. `context`: tokens that one text has, its prompt
        included. Raises `ModelError` for a file that llama.cpp does not load."""
        super().__init__(folder)
        params = xllamacpp.CommonParams()
        params.model.path = str(next(folder.glob("*.gguf")))
        params.n_parallel = _TOGETHER
        params.n_ctx = _TOGETHER * context
        params.warmup = False
        params.verbosity = -1
        if self.sheet.precision == "fp32":
            # By default keys and values are kept in half precision, whatever the weights are in.
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or torch.get_num_threads()
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ModelError(f"{params.model.path}: llama.cpp cannot load it; export the student again") from error
        self._place = urlsplit(self._server.listening_address)

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int) -> list[list[int]]:
        """The ids written behind each prompt."""
        with ThreadPoolExecutor(min(batch_size, _TOGETHER)) as pool:
            found = list(pool.map(lambda prompt: self._complete(prompt, max_new_tokens), prompts))
        ends = self.sheet.alphabet.ends
        return [[token for token in each["tokens"] if token not in ends] for each in found]

    def trace(self, prompt: list[int], max_new_tokens: int) -> Trace:
        """One text, each step asked for by itself: of a step that ends the text, or leaves a character half written,
        llama.cpp tells no probabilities, and where in a longer answer they are missing it does not tell either."""
        written: list[int] = []
        ids_TK, log_probs_TK = [], []
        while len(written) < max_new_tokens and not (written and written[-1] in self.sheet.alphabet.ends):
            found = self._complete([*prompt, *written], 1, n_probs=TOLD, cache_prompt=True, logit_bias=[])
            written.append((found["tokens"] or self.sheet.alphabet.ends)[0])
            told = [each for step in found.get("completion_probabilities", ()) for each in step["top_logprobs"]]
            ids_TK.append([each["id"] for each in told] or [written[-1]] * TOLD)
            log_probs_TK.append([each["logprob"] for each in told] or [np.nan] * TOLD)
        return Trace(written, np.array(ids_TK), np.array(log_probs_TK, dtype=np.float32))

    def reads_alike(self, source: str) -> bool:
        """Whether llama.cpp's own tokenizer makes the student's tokens of the prompt around `source`."""
        prompt = self.sheet.prompt
        own = list(tokenize_prompts(self.tokenizer, prompt, [source])["input_ids"][0])
        asked = {"content": prompt.render(source, self.tokenizer), "parse_special": True}
        return own == self._ask("/tokenize", asked | {"add_special": prompt.kind != "chat"})["tokens"]

    def _complete(self, prompt: list[int], max_new_tokens: int, **options: Any) -> Any:
        greedy = {"samplers": ["top_k"], "top_k": 1, "temperature": 0.0, "cache_prompt": False}
        greedy |= forbidding(self.sheet.alphabet)
        asked = {"prompt": prompt, "n_predict": max_new_tokens, "return_tokens": True}
        return self._ask("/completion", asked | greedy | options)

    def _ask(self, path: str, what: dict[str, Any]) -> Any:
        # Straight to the process's own port, past any proxy that the environment names.
        connection = HTTPConnection(str(self._place.hostname), self._place.port or 80)
        try:
            connection.request("POST", path, json.dumps(what), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ModelError(f"{self.name}: llama.cpp refuses ({answer.get('error', {}).get('message', answer)})")
        return answer
