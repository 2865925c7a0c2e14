"""A model's shape and the number of its parameters, part by part: exact, from arithmetic alone.

Letters in formulas: d width, q query width (heads x head width), k key width, f inner width of the feed-forward part.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All that counting needs of a text-to-text model. `encoder_layers` is 0 for decoder-only models."""

    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    vocabulary: int
    tied: bool
    gated: bool = True
    encoder_layers: int = 0
    experts: int = 0
    """Feed-forward parts of a layer of which `active_experts` work on a token; 0 for dense models."""
    active_experts: int = 0
    window: int | None = None
    """How many tokens back a windowed layer looks; `windowed` of the layers are such."""
    windowed: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    inner_bias: bool = False
    head_bias: bool = False
    norm_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    """Norms in a decoder layer, without cross-attention's own."""
    final_norms: int = 1
    """Norms outside layers: after the last one, after the embedding."""
    positions: int = 0
    """Rows of each stack's table of learned positions."""
    context: int | None = None
    """Tokens that a model has places for; None where that is not known, or where positions are relative."""
    buckets: int = 0
    """Rows of each stack's table of relative positions, one column a head."""
    vision: int = 0
    """Parameters of an image tower, which text-to-text work leaves idle."""

    @property
    def query(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_width

    @property
    def key(self) -> int:
        """Width of all keys together; that of values is the same."""
        return self.kv_heads * self.head_width

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the source."""
        return self.encoder_layers > 0

    @property
    def attention_parameters(self) -> int:
        """Of one attention, biases and norms of queries and keys included."""
        weights = 2 * self.width * (self.query + self.key)
        biases = self.qkv_bias * (self.query + 2 * self.key) + self.out_bias * self.width
        return weights + biases + self.qk_norm * 2 * self.head_width

    @property
    def feed_forward_parameters(self) -> int:
        """Of one layer's feed-forward part; of all experts and their router together."""
        one = (2 + self.gated) * self.width * self.inner
        one += self.inner_bias * ((1 + self.gated) * self.inner + self.width)
        return self.experts * (one + self.width) if self.experts else one

    @property
    def norm_parameters(self) -> int:
        """Of one norm."""
        return self.width * (1 + self.norm_bias)


def parts(shape: Shape) -> dict[str, int]:
    """Parameters by part. A tied head has none of its own: it is the embedding."""
    stacks = 1 + shape.is_encoder_decoder
    layers = shape.layers + shape.encoder_layers
    cross = shape.layers if shape.is_encoder_decoder else 0
    norms = layers * shape.norms + cross + stacks * shape.final_norms
    table = shape.vocabulary * shape.width
    return {
        "embedding": table,
        "positions": stacks * (shape.positions * shape.width + shape.buckets * shape.heads),
        "attention": (layers + cross) * shape.attention_parameters,
        "feed-forward": layers * shape.feed_forward_parameters,
        "norms": norms * shape.norm_parameters,
        "head": (0 if shape.tied else table) + shape.head_bias * shape.vocabulary,
        "vision": shape.vision,
    }


def parameters(shape: Shape) -> int:
    """All parameters, each counted once."""
    return sum(parts(shape).values())


def active_parameters(shape: Shape) -> int:
    """Parameters that work on a token: of experts only the active ones."""
    if not shape.experts:
        return parameters(shape) - shape.vision
    idle = shape.experts - shape.active_experts
    one = (2 + shape.gated) * shape.width * shape.inner
    return parameters(shape) - shape.vision - shape.layers * idle * one
