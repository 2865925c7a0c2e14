"""CTranslate2: both families, quantised kernels for CPUs and GPUs, batches sorted by length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

from instil.export.engines.engine import Engine, Trace, most_probable

VOCABULARIES = ("vocabulary.json", "shared_vocabulary.json", "target_vocabulary.json")


class CTranslate2Engine(Engine):
    """An export to CTranslate2, on the CPU unless `device` ("cuda", "cuda:1") says otherwise."""

    weights = ("model.bin",)

    def __init__(self, folder: Path, *, device: str = "cpu", threads: int = 0) -> None:
        """`threads` of one computation; 0 leaves it to the library."""
        super().__init__(folder)
        kind = ctranslate2.Generator if self.sheet.kind == "decoder-only" else ctranslate2.Translator
        # Only what was proved runs: left alone, the library would choose another precision on other machines.
        compute = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(self.sheet.precision, "default")
        where, _, number = device.partition(":")
        self.model: Any = kind(
            str(folder), device=where, device_index=int(number or 0), intra_threads=threads, compute_type=compute
        )
        path = next(folder / name for name in VOCABULARIES if (folder / name).is_file())
        self.tokens: list[str] = json.loads(path.read_text(encoding="utf8"))
        self._ids = {token: number for number, token in enumerate(self.tokens)}

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int) -> list[list[int]]:
        """The ids written behind each prompt."""
        return [self._written(each) for each in self.run(prompts, max_new_tokens, max_batch_size=batch_size)]

    def run(self, prompts: Sequence[list[int]], max_new_tokens: int, **options: Any) -> Any:
        """What CTranslate2 itself gives for `prompts`, under the student's alphabet and with its own `options`."""
        alphabet = self.sheet.alphabet
        forced = [self.tokens[alphabet.first]] if alphabet.first is not None else None
        never = [[self.tokens[token] for token in tokens] for tokens in alphabet.never] or None
        return self._run(prompts, max_new_tokens, forced=forced, suppress_sequences=never, **options)

    def trace(self, prompt: list[int], max_new_tokens: int) -> Trace:
        """One text step by step."""
        (found,) = self._run([prompt], max_new_tokens, return_logits_vocab=True, return_end_token=True)
        logits_TV = np.stack([np.asarray(step, dtype=np.float32) for step in found.logits[0]])
        return most_probable(logits_TV, self._written(found))

    def _run(
        self, prompts: Sequence[list[int]], max_new_tokens: int, *, forced: list[str] | None = None, **options: Any
    ) -> Any:
        read = [[self.tokens[token] for token in prompt] for prompt in prompts]
        options |= {"beam_size": 1, "end_token": list(self.sheet.alphabet.ends)}
        if self.sheet.kind == "decoder-only":
            return self.model.generate_batch(read, max_length=max_new_tokens, include_prompt_in_result=False, **options)
        prefix = [forced] * len(read) if forced else None
        return self.model.translate_batch(
            read, prefix, max_decoding_length=max_new_tokens, max_input_length=0, **options
        )

    def _written(self, found: Any) -> list[int]:
        if self.sheet.kind == "decoder-only":
            return list(found.sequences_ids[0])
        return [self._ids[token] for token in found.hypotheses[0]]
