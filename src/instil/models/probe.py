"""Is an architecture that the tests do not cover read correctly? One tiny forward pass tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from instil.core.errors import ModelError
from instil.data.tokens import Encoded
from instil.models.head import describe

if TYPE_CHECKING:
    from instil.models.family import Family

# Low precision rounds differently once batched; a wrong head or mask is off by the logits' own spread.
TOLERANCE = 0.02


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; each module's own mode is back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


def probe(model: Any, family: Family) -> None:
    """Compares the rows of an uneven batch with the logits that `model` itself gives to each example.

    Raises `ModelError` naming the architecture if they differ by more than `TOLERANCE` of the logits' deviation.
    """
    embedding = model.get_input_embeddings().weight
    ids = [(7 * index + 3) % min(len(embedding), 97) for index in range(16)]
    examples = [Encoded("a", tuple(ids[:6]), tuple(ids[6:11])), Encoded("b", tuple(ids[11:14]), tuple(ids[14:16]))]
    try:
        with evaluating(model):
            problem = _difference(model, family, examples, embedding.device)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        problem = f"cannot be called like its kin ({type(error).__name__}: {str(error).splitlines()[0]})"
    if problem:
        raise ModelError(f"{describe(model)} {problem}; choose another architecture")


def _difference(model: Any, family: Family, examples: list[Encoded], device: torch.device) -> str:
    rows = family.rows(model, family.collate(examples).to(device))
    logits_NV = rows.head.logits(rows.hidden_ND).float()
    own_NV = torch.cat([_own_logits(model, family, example, device) for example in examples]).float()
    if logits_NV.shape != own_NV.shape:
        return f"has logits of shape {tuple(own_NV.shape)} where its head gives {tuple(logits_NV.shape)}"
    error = float((logits_NV - own_NV).abs().mean() / own_NV.std())
    if error <= TOLERANCE:
        return ""
    return f"computes its logits in a way of its own (they differ from its head's by {error:.2g} deviations)"


def _own_logits(model: Any, family: Family, example: Encoded, device: torch.device) -> Tensor:
    batch = family.collate([example]).to(device)
    logits_BTV: Tensor = model(**batch.inputs, use_cache=False).logits
    return logits_BTV.flatten(0, 1)[batch.row_index_N]
