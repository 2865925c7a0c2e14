"""The same model with its activations' outliers moved into weights, where eight bits hurt less.

Xiao et al. 2022, "SmoothQuant" (arXiv 2211.10438): what one matrix writes is divided, channel by channel, by what the
next one's columns are multiplied with, so nothing changes but the numbers between. The factor is
max|x|^strength / max|W|^(1 - strength). Beside the norms before attention and feed-forward, the values before the
output projection and the feed-forward's inner channels are evened out too.

Shape letters: D channels, O outputs, I inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from instil.models.layers import stack_of
from instil.models.probe import evaluating

_NORMS = ("input_layernorm", "post_attention_layernorm")
_PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj",
          "mlp.gate_proj", "mlp.down_proj")  # fmt: skip
STRENGTH = 0.5
_GRAIN = 1e-2
"""How far from a whole step a weight may be by its own precision."""


def smooth(model: Any, prompts: Sequence[Sequence[int]], *, strength: float = STRENGTH) -> Any:
    """A copy of `model` that computes the same with smaller activations between its matrices, as seen on `prompts`;
    `model` itself where its layers are not built as Llama's are (Llama, Qwen, Mistral, SmolLM3)."""
    if not built_as_llama(model):
        return model
    smoothed = copy.deepcopy(model)
    layers = list(stack_of(smoothed).layers)
    with _peaks(layers) as peaks, evaluating(smoothed):
        for prompt in prompts:
            smoothed(torch.tensor([list(prompt)]))
    with torch.no_grad():
        for number, layer in enumerate(layers):
            for edge in _edges(layer, smoothed.config):
                edge.even_out(peaks[number, edge.seen], strength)
    return smoothed


def is_rounded(model: Any) -> bool:
    """Whether the matrices of its layers take 255 steps a row already, having learned to: to be left as they are."""
    matrices = [part.weight for part in stack_of(model).layers.modules() if isinstance(part, nn.Linear)]
    return bool(matrices) and all(_in_steps(weight_OI.detach()) for weight_OI in matrices)


def _in_steps(weight_OI: Tensor) -> bool:
    steps_OI = weight_OI / weight_OI.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(weight_OI.dtype).tiny) * 127
    return bool((steps_OI - steps_OI.round()).abs().max() < _GRAIN)


def built_as_llama(model: Any) -> bool:
    """Whether its layers have Llama's norms and matrices, by those names, and nothing behind them (as Gemma 2 has)."""
    if model.config.is_encoder_decoder or model.config.model_type.startswith("gemma"):
        return False
    names = {name for name, _ in stack_of(model).layers[0].named_modules()}
    return names.issuperset((*_NORMS, *_PARTS)) and "post_feedforward_layernorm" not in names


@contextmanager
def _peaks(layers: Sequence[nn.Module]) -> Iterator[dict[tuple[int, str], Tensor]]:
    """The largest absolute value of each input channel of the parts of each layer, while they run inside."""
    found: dict[tuple[int, str], Tensor] = {}
    handles = []
    for number, layer in enumerate(layers):
        for name in _PARTS:

            def note(module: Any, inputs: Any, key: tuple[int, str] = (number, name)) -> None:
                peak_D = inputs[0].abs().flatten(0, -2).amax(0)
                found[key] = torch.maximum(found[key], peak_D) if key in found else peak_D

            handles.append(layer.get_submodule(name).register_forward_pre_hook(note))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edge:
    """Who writes the channels that `readers` read: a norm's weight or a matrix's rows, each channel copied to `copies`
    places in a row of blocks of `block` channels (values of grouped heads)."""

    writer: Any
    readers: tuple[Any, ...]
    seen: str
    copies: int = 1
    block: int = 1

    def even_out(self, peak_I: Tensor, strength: float) -> None:
        weight_I = torch.stack([reader.weight.abs().amax(0) for reader in self.readers]).amax(0)
        peak_D, weight_D = self._shared(peak_I), self._shared(weight_I)
        factor_D = peak_D.clamp(min=1e-5) ** strength / weight_D.clamp(min=1e-5) ** (1 - strength)
        rows = (slice(None), *([None] * (self.writer.weight.ndim - 1)))
        self.writer.weight /= factor_D[rows]
        if getattr(self.writer, "bias", None) is not None:
            self.writer.bias /= factor_D
        for reader in self.readers:
            reader.weight *= self._spread(factor_D)

    def _shared(self, values_I: Tensor) -> Tensor:
        return values_I.unflatten(0, (-1, self.copies, self.block)).amax(1).flatten()

    def _spread(self, values_D: Tensor) -> Tensor:
        return values_D.unflatten(0, (-1, 1, self.block)).expand(-1, self.copies, -1).flatten()


def _edges(layer: Any, config: Any) -> Iterator[_Edge]:
    attention, inner = layer.self_attn, layer.mlp
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    groups = config.num_attention_heads // config.num_key_value_heads
    queries = (attention.q_proj, attention.k_proj, attention.v_proj)
    yield _Edge(writer=layer.input_layernorm, readers=queries, seen="self_attn.q_proj")
    yield _Edge(
        writer=attention.v_proj, readers=(attention.o_proj,), seen="self_attn.o_proj", copies=groups, block=size
    )
    yield _Edge(writer=layer.post_attention_layernorm, readers=(inner.gate_proj, inner.up_proj), seen="mlp.up_proj")
    yield _Edge(writer=inner.up_proj, readers=(inner.down_proj,), seen="mlp.down_proj")
