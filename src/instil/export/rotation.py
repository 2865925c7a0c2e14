"""The same model with its channels turned, so that no channel stands out where activations are rounded to eight bits.

Ashkboos et al. 2024, "QuaRot" (arXiv 2404.00456), without the turns that have to be computed while the model runs: an
RMS norm's weight goes into the matrices behind it, and then all that is written into the residual stream is multiplied
by one orthogonal matrix, and all that reads it by its inverse. What were outliers in a few channels is spread over
all of them. Smoothing does that for one pair of matrices at a time and leaves the head out, since a factor of the last
norm's channels would need a head apart from the embedding. So does this: a tied head costs a second copy.

Shape letters: D channels, O outputs, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from instil.export.smoothing import built_as_llama
from instil.models.layers import stack_of


def can_rotate(model: Any) -> bool:
    """Whether its layers are built as Llama's are, with norms that only scale (a turn would change a mean) and no cap
    on logits (which may move together then)."""
    if not built_as_llama(model) or getattr(model.config, "final_logit_softcapping", None):
        return False
    first: Any = stack_of(model).layers[0]
    norms = (getattr(model.get_decoder(), "norm", None), first.input_layernorm, first.post_attention_layernorm)
    return all("RMSNorm" in type(norm).__name__ and getattr(norm, "bias", None) is None for norm in norms)


def rotate(model: Any, *, seed: int = 0) -> Any:
    """A copy of `model`, which `can_rotate`, that gives the same probabilities in turned channels, its head apart from
    its embedding."""
    turned = copy.deepcopy(model)
    layers: Any = stack_of(turned).layers
    turn_DD = _orthogonal(turned.config.hidden_size, seed)
    with torch.no_grad():
        head = _own_head(turned)
        embedding = turned.get_input_embeddings()
        embedding.weight.copy_(_by(embedding.weight, turn_DD))
        for layer in layers:
            attention, inner = layer.self_attn, layer.mlp
            for norm, readers in (
                (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (layer.post_attention_layernorm, (inner.gate_proj, inner.up_proj)),
            ):
                _read_turned(norm, readers, turn_DD)
            for writer in (attention.o_proj, inner.down_proj):
                writer.weight.copy_(_by(writer.weight.T, turn_DD).T)
                if writer.bias is not None:
                    writer.bias.copy_(_by(writer.bias[None], turn_DD)[0])
        _read_turned(turned.get_decoder().norm, (head,), turn_DD)
        head.weight -= head.weight.mean(0)  # What all tokens share moves no probability, and takes the steps of others.
    return turned


def _orthogonal(size: int, seed: int) -> Tensor:
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q


def _by(weight_OD: Tensor, turn_DD: Tensor) -> Tensor:
    return (weight_OD.double() @ turn_DD).to(weight_OD.dtype)


def _own_head(model: Any) -> nn.Linear:
    tied: nn.Linear = model.get_output_embeddings()
    head = copy.deepcopy(tied)
    head.weight = nn.Parameter(tied.weight.detach().clone())
    model.set_output_embeddings(head)
    model.config.tie_word_embeddings = False
    return head


def _read_turned(norm: Any, readers: tuple[Any, ...], turn_DD: Tensor) -> None:
    for reader in readers:
        reader.weight.copy_(_by(reader.weight * norm.weight, turn_DD))
    norm.weight.fill_(1)
