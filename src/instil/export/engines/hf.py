"""transformers itself, over an export in its own format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from instil.export.engines.engine import Engine, Trace, most_probable
from instil.models.folders import WEIGHTS, read_config
from instil.models.generation import TransformersGenerator
from instil.models.loading import load_model


class TransformersEngine(Engine):
    """An export to transformers, in the precision that it was written in."""

    weights = (WEIGHTS,)

    @cached_property
    def generator(self) -> TransformersGenerator:
        """The model as transformers runs it."""
        dtype = getattr(torch, read_config(self.folder, str(self.folder)).get("dtype", "float32"))
        loaded = load_model(str(self.folder), dtype=dtype)
        return TransformersGenerator(
            loaded.model, loaded.tokenizer, self.sheet.prompt, name=self.name, max_source_tokens=self.sheet.source_limit
        )

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        """One text for each source, in their order."""
        return self.generator.generate(sources, max_new_tokens=max_new_tokens, batch_size=batch_size)

    def trace(self, prompt: list[int], max_new_tokens: int) -> Trace:
        """One text step by step."""
        alphabet = self.sheet.alphabet
        before = prompt if self.sheet.kind == "decoder-only" else [alphabet.start or 0]
        written: list[int] = []
        steps: list[Any] = []
        while len(written) < max_new_tokens and not (written and written[-1] in alphabet.ends):
            steps.append(self._next(prompt, [*before, *written]))
            written.append(int(steps[-1].argmax()))
        return most_probable(np.stack(steps), written)

    def _next(self, prompt: list[int], read: list[int]) -> Any:
        model: Any = self.generator.model
        with torch.inference_mode():
            if self.sheet.kind == "decoder-only":
                logits_BTV = model(torch.tensor([read])).logits
            else:
                logits_BTV = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([read])).logits
        return logits_BTV[0, -1].float().numpy()
