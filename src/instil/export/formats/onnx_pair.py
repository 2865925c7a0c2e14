"""An encoder-decoder as two ONNX graphs by torch's own exporter, with a cache of keys and values between them.

`encoder.onnx` reads a source and gives the keys and values that the decoder's layers look at; `decoder.onnx` reads one
token more and gives its logits. One text at a time, so nothing is padded and every mask is zero. Weights that both
need, such as the embedding, are written once.

Shape letters: B batch (1), S time of the source, P tokens that the cache holds, L layers, H heads, K width of a head.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir
import onnxscript  # noqa: F401  # the exporter needs it, and says so in many lines
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from instil.export.formats.converting import converting

ENCODER_NAME, DECODER_NAME, WEIGHTS_NAME = "encoder.onnx", "decoder.onnx", "model.onnx.data"
CACHES = ("source_keys", "source_values", "keys", "values")
BITS = {"int8": 8, "int4": 4}
_BLOCK, _EIGHT_BIT_ACTIVATIONS = 32, 4
_INSIDE = 1024
"""Bytes of a tensor that stays inside the graph: shapes and other small numbers, which its checks read."""


def write_pair(model: Any, precision: str, folder: Path) -> None:
    """Write both graphs and their weights. Raises `ModelError` for an architecture that cannot be traced."""
    model = copy.deepcopy(model).float()
    model.config._attn_implementation = "eager"
    if precision in BITS:
        # What is read as an embedding stays as it is, so the head that is rounded becomes a tensor of its own.
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone())
    with converting(model, "ONNX"):
        graphs = _traced(model)
    if precision in BITS:
        graphs = [_rounded(graph, BITS[precision]) for graph in graphs]
    _move_out(graphs, folder)
    for graph, name in zip(graphs, (ENCODER_NAME, DECODER_NAME), strict=True):
        onnx_ir.save(graph, folder / name)


class _Encoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        # A first step of the decoder fills the cache; what else it computes is cut off the graph.
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.model(
            input_ids=ids, attention_mask=torch.zeros(1, 1, 1, ids.shape[1]),
            decoder_input_ids=torch.zeros(1, 1, dtype=torch.long), decoder_attention_mask=torch.zeros(1, 1, 1, 1),
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        return _stacked(cache.cross_attention_cache)


class _Decoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: Tensor, source_keys: Tensor, source_values: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        source, past = source_keys.shape[3], keys.shape[3]
        written = DynamicCache(list(zip(keys, values, strict=True)))
        read = DynamicCache(list(zip(source_keys, source_values, strict=True)))
        # The encoder's states are in the cache already; here only their number counts.
        states = torch.zeros(1, source, self.model.config.hidden_size)
        logits_BTV = self.model(
            encoder_outputs=BaseModelOutput(states), attention_mask=torch.zeros(1, 1, 1, source),
            decoder_input_ids=ids, decoder_attention_mask=torch.zeros(1, 1, 1, past + 1),
            past_key_values=EncoderDecoderCache(written, read), use_cache=True,
        ).logits  # fmt: skip
        return logits_BTV, *_stacked(written)


def _stacked(cache: Any) -> tuple[Tensor, Tensor]:
    return torch.stack([layer.keys for layer in cache.layers]), torch.stack([layer.values for layer in cache.layers])


def _traced(model: Any) -> list[Any]:
    free = {3: torch.export.Dim.DYNAMIC}
    ids_BS, ids_B1 = torch.tensor([[1, 2, 3, 4, 5, 6, 7]]), torch.tensor([[1]])
    encoder, decoder = _Encoder(model).eval(), _Decoder(model).eval()
    with torch.inference_mode():
        source_LBHSK = encoder(ids_BS)
    written_LBHPK = [cache[..., :3, :].clone() for cache in source_LBHSK]
    given = (ids_B1, *(cache.clone() for cache in source_LBHSK), *written_LBHPK)
    return [
        _exported(encoder, (ids_BS,), {"ids": {1: torch.export.Dim.DYNAMIC}}, CACHES[:2]),
        _exported(decoder, given, {"ids": None, **dict.fromkeys(CACHES, free)}, ("logits", "new_keys", "new_values")),
    ]


def _exported(module: nn.Module, given: tuple[Tensor, ...], free: dict[str, Any], gives: Sequence[str]) -> Any:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # What is traced is proved afterwards, on texts of other lengths.
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                module, given, dynamic_shapes=free, input_names=list(free), output_names=list(gives), dynamo=True,
                verbose=False,
            )  # fmt: skip
    finally:
        logger.setLevel(level)
    # The exporter notes beside each operation which line of which file on this machine it comes from.
    ClearMetadataAndDocStringPass()(program.model)
    return program.model


def _rounded(graph: Any, bits: int) -> Any:
    """`graph` with its matrices in blocks of so many bits, by ONNX Runtime's own quantiser."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantiser = MatMulNBitsQuantizer(
        onnx_ir.to_proto(graph), bits=bits, block_size=_BLOCK, is_symmetric=True,
        accuracy_level=_EIGHT_BIT_ACTIVATIONS, op_types_to_quantize=("MatMul",),
    )  # fmt: skip
    quantiser.process()
    return onnx_ir.from_proto(quantiser.model.model)


def _move_out(graphs: Sequence[Any], folder: Path) -> None:
    """Puts the weights of all `graphs` into one file, what is the same in several of them once."""
    places: dict[bytes, list[Any]] = {}
    for graph in graphs:
        for value in graph.graph.initializers.values():
            if value.const_value.nbytes > _INSIDE:
                content = hashlib.sha256(value.const_value.tobytes())
                content.update(repr((value.const_value.dtype, value.const_value.shape)).encode())
                places.setdefault(content.digest(), []).append(value)
    tensors = [values[0].const_value for values in places.values()]
    moved = onnx_ir.external_data.convert_tensors_to_external(tensors, folder, WEIGHTS_NAME)
    for values, tensor in zip(places.values(), moved, strict=True):
        for value in values:
            value.const_value = copy.copy(tensor)
