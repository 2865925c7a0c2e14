"""transformers itself, over an export in its own format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from instil.export.engines.engine import StepwiseEngine
from instil.models.folders import WEIGHTS, read_config
from instil.models.generation import TransformersGenerator
from instil.models.loading import load_model


class TransformersEngine(StepwiseEngine):
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
        """One text for each source, in their order, with transformers' own cache."""
        return self.generator.generate(sources, max_new_tokens=max_new_tokens, batch_size=batch_size)

    def following(self, prompt: list[int], read: list[int]) -> Any:
        """Logits of the token behind `read`."""
        model: Any = self.generator.model
        with torch.inference_mode():
            if self.sheet.kind == "decoder-only":
                logits_BTV = model(torch.tensor([read])).logits
            else:
                logits_BTV = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([read])).logits
        return logits_BTV[0, -1].float().numpy()
