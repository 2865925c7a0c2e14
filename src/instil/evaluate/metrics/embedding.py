"""How alike two texts are in meaning, as a model on this machine sees it: the cosine of their embeddings.

Shapes: B texts, T time, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instil.core.errors import ConfigError, ModelError
from instil.evaluate.metric import Metric
from instil.evaluate.outputs import ScoredOutput

if TYPE_CHECKING:
    from torch import Tensor

_LONGEST = 512


class Embedder:
    """The model in `folder`, loaded on first use; a text is the mean of its last hidden states, of length 1."""

    def __init__(self, folder: str) -> None:
        """Raises `ModelError` where there is no such folder."""
        self.folder = Path(folder).expanduser()
        if not (self.folder / "config.json").is_file():
            raise ModelError(f"{folder}: there is no model in this folder; download one and set evaluate.embedder")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        try:
            model = AutoModel.from_pretrained(self.folder, local_files_only=True, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{self.folder}: cannot be loaded as an embedder ({reason}); choose another") from error
        return (model.get_encoder() if model.config.is_encoder_decoder else model).eval(), tokenizer

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Shape (B, D)."""
        import torch

        model, tokenizer = self._loaded
        # A space, because an empty text has no token to look at.
        known = [tokenizer(text or " ", truncation=True, max_length=_LONGEST)["input_ids"] for text in texts]
        with torch.inference_mode():
            states = [model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).float() for ids in known]
        return torch.nn.functional.normalize(torch.stack(states), dim=-1)


def embedding_similarity(nrefs: str, folder: str | None) -> Metric:
    """100 times the cosine of an output and the reference that is most like it. Raises `ConfigError` without a model,
    `ModelError` for one that is not there."""
    if folder is None:
        raise ConfigError("embedding_similarity needs a model; set evaluate.embedder to the folder of one")
    embedder = Embedder(folder)

    def statistics(output: ScoredOutput) -> tuple[float, float]:
        written, *targets = embedder.embed([output.output, *output.targets])
        return 100.0 * max(float(written @ target) for target in targets), 1.0

    return Metric(
        name="embedding_similarity", unit="%", better="higher", statistics=statistics,
        signature=f"embedding_similarity|nrefs:{nrefs}|refs:best|model:{embedder.folder.name}|pooling:mean",
    )  # fmt: skip
