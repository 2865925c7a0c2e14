"""What examples cost: FLOPs of forward and backward, bytes of the KV cache, bytes that activations keep.

A multiplication and an addition are two FLOPs. The head works on rows only, the positions that predict a target token,
as instil's objective does.
"""

from __future__ import annotations

from dataclasses import dataclass

from instil.plan.shape import Shape, active_parameters, parameters, parts
from instil.plan.time import Load

BYTES = 2
"""Of a number in bf16 or fp16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOPs of a forward pass over one example."""

    products: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.products + self.attention + self.head


def mean_context(length: float, window: int | None = None) -> float:
    """How many positions a causal position attends to, itself included, on average over a text of `length`."""
    if window is None or length <= window:
        return (length + 1) / 2
    return (window * (window + 1) / 2 + (length - window) * window) / length


def forward_flops(shape: Shape, source: float, target: float, rows: float | None = None) -> Flops:
    """A forward pass over `source` and `target` tokens with the head on `rows` (the target, unless told)."""
    rows = target if rows is None else rows
    head = 2.0 * shape.width * shape.vocabulary * rows
    if shape.is_encoder_decoder:
        return _encoder_decoder_flops(shape, source, target, head)
    length = source + target
    wide = (shape.layers - shape.windowed) * mean_context(length)
    narrow = shape.windowed * mean_context(length, shape.window)
    return Flops(products=2 * _body(shape) * length, attention=4 * shape.query * (wide + narrow) * length, head=head)


def _body(shape: Shape) -> float:
    """Weights that each token passes through, without tables and head."""
    by_part = parts(shape)
    tables = by_part["embedding"] + by_part["positions"] + by_part["head"] + by_part["norms"]
    return active_parameters(shape) - tables


def _encoder_decoder_flops(shape: Shape, source: float, target: float, head: float) -> Flops:
    """Cross-attention reads its keys and values from the source's positions, its queries from the target's."""
    one, feed = shape.attention_parameters, shape.feed_forward_parameters
    queries = 2 * shape.width * shape.query
    keys = one - queries
    products = 2 * (
        source * (shape.encoder_layers * (one + feed) + shape.layers * keys)
        + target * shape.layers * (one + feed + queries)
    )
    seen = shape.encoder_layers * source * source + shape.layers * target * (mean_context(target) + source)
    return Flops(products=products, attention=4 * shape.query * seen, head=head)


def backward_flops(forward: Flops, *, frozen: bool = False) -> float:
    """Backward pass: twice the forward one; half of that for products whose weights are frozen."""
    return (1 if frozen else 2) * (forward.products + forward.head) + 2 * forward.attention


def kv_cache_bytes(shape: Shape, length: float, width_bytes: float = BYTES) -> float:
    """Keys and values of one text of `length` tokens, in all layers; windowed layers keep their window only."""
    kept = (shape.layers - shape.windowed) * length + shape.windowed * min(length, shape.window or length)
    return 2 * shape.key * kept * width_bytes


def layer_activation_bytes(shape: Shape) -> float:
    """Bytes a token that one layer keeps for its backward pass with fused attention: the inputs of all products, of
    norms and of the activation."""
    inner = shape.inner * (shape.active_experts or 1)
    widths = 4 * shape.width + 2 * (shape.query + shape.key) + (2 + 2 * shape.gated) * inner
    return float(widths * BYTES)


def load_of(
    shape: Shape, source: float, target: float, *, trainable: float | None = None, backward: float = 2.0
) -> Load:
    """What a token of such examples costs, for the time model; `backward` as in `Load`."""
    flops, length = forward_flops(shape, source, target), source + target
    return Load(
        products=(flops.products + flops.head) / length, attention=flops.attention / length,
        parameters=float(parameters(shape) - shape.vision),
        trainable=float(parameters(shape) - shape.vision if trainable is None else trainable),
        layers=shape.layers + shape.encoder_layers, width=shape.width, backward=backward,
    )  # fmt: skip


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Weights of LoRA pairs of that rank on all products of all layers."""
    d, q, k, f = shape.width, shape.query, shape.key, shape.inner
    attention = 2 * (d + q) + 2 * (d + k)
    cross = shape.layers * attention if shape.is_encoder_decoder else 0
    feed = (2 + shape.gated) * (d + f) * (shape.experts or 1)
    return rank * ((shape.layers + shape.encoder_layers) * (attention + feed) + cross)
