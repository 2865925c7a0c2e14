"""The anatomy of the architectures whose width can be cut: what the axes of each weight count.

An axis is one word: `hidden` channels of the residual stream, `units` of a feed-forward layer, `query` channels of all
query heads together, `keys` channels of all key-value heads, `heads` one by one; `.` is never cut. `a+b` is an axis of
parts that stand one behind the other, as in fused projections. A bias has the axis of its weight's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from instil.core.errors import ModelError
from instil.models.head import describe

NEVER_CUT = "."
_EMBEDDINGS = dict.fromkeys(("embed_tokens", "shared", "wte", "lm_head"), ". hidden")
_LLAMA = _EMBEDDINGS | {
    "q_proj": "query hidden", "k_proj": "keys hidden", "v_proj": "keys hidden", "o_proj": "hidden query",
    "gate_proj": "units hidden", "up_proj": "units hidden", "down_proj": "hidden units",
    "input_layernorm": "hidden", "post_attention_layernorm": "hidden", "norm": "hidden",
}  # fmt: skip
_HEAD_NORMS = {"q_norm": ".", "k_norm": "."}
_GEMMA2 = _LLAMA | {"pre_feedforward_layernorm": "hidden", "post_feedforward_layernorm": "hidden"}
_PHI3 = _LLAMA | {"qkv_proj": "query+keys+keys hidden", "gate_up_proj": "units+units hidden"}
_GPT2 = _EMBEDDINGS | {
    "wpe": ". hidden", "attn.c_attn": "hidden query+keys+keys", "attn.c_proj": "query hidden",
    "mlp.c_fc": "hidden units", "mlp.c_proj": "units hidden", "ln_1": "hidden", "ln_2": "hidden", "ln_f": "hidden",
}  # fmt: skip
_GPTJ = _EMBEDDINGS | {
    "q_proj": "query hidden", "k_proj": "keys hidden", "v_proj": "keys hidden", "out_proj": "hidden query",
    "fc_in": "units hidden", "fc_out": "hidden units", "ln_1": "hidden", "ln_f": "hidden",
}  # fmt: skip
_T5 = _EMBEDDINGS | {
    "q": "query hidden", "k": "keys hidden", "v": "keys hidden", "o": "hidden query", "wi": "units hidden",
    "wi_0": "units hidden", "wi_1": "units hidden", "wo": "hidden units", "relative_attention_bias": ". heads",
    "layer_norm": "hidden", "final_layer_norm": "hidden",
}  # fmt: skip
_BART = _EMBEDDINGS | {
    "embed_positions": ". hidden", "final_logits_bias": ". .", "fc1": "units hidden", "fc2": "hidden units",
    "q_proj": "query hidden", "k_proj": "keys hidden", "v_proj": "keys hidden", "out_proj": "hidden query",
    **dict.fromkeys(
        ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm", "layernorm_embedding", "layer_norm"),
        "hidden",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """`axes`: by the end of a module's name. The four sizes: what the config calls them, by several names where the
    encoder and the decoder have their own. `last_norm`: the one before the head.

    `head_size` is the config's name for it; without one, heads share the hidden size among them. `transposed`: weights
    are stored inputs first. `scaled`: whether embeddings are multiplied by the root of the hidden size. `gain`: what is
    added to the weight of a norm. `tied_heads`: attention of this name goes by one choice of heads in a whole stack.
    `sinusoidal`: position embeddings are computed from the hidden size, not stored.
    """

    axes: Mapping[str, str]
    hidden: tuple[str, ...] = ("hidden_size",)
    feed_forward: tuple[str, ...] = ("intermediate_size",)
    heads: tuple[str, ...] = ("num_attention_heads",)
    key_value_heads: tuple[str, ...] = ("num_key_value_heads",)
    head_size: str | None = "head_dim"
    last_norm: str = "model.norm"
    transposed: bool = False
    scaled: Callable[[Any], bool] = lambda _config: False
    gain: float = 0.0
    tied_heads: str | None = None
    sinusoidal: bool = False

    def axes_of(self, weight: str) -> list[str]:
        """The words of the weight or bias of this name. Raises `KeyError` for one that the table lacks."""
        module, _, kind = weight.rpartition(".")
        *_, parent, leaf = ["", *(module or kind).split(".")]
        words = (self.axes.get(f"{parent}.{leaf}") or self.axes[leaf]).split()
        if kind == "bias":
            return [words[-1 if self.transposed else 0]]
        return words


def _gpt(axes: Mapping[str, str], *, transposed: bool = False) -> Anatomy:
    return Anatomy(
        axes=axes, hidden=("n_embd",), feed_forward=("n_inner",), heads=("n_head",), key_value_heads=(), head_size=None,
        last_norm="transformer.ln_f", transposed=transposed,
    )  # fmt: skip


def _bart(last_norm: str, *, sinusoidal: bool = False) -> Anatomy:
    return Anatomy(
        axes=_BART, hidden=("d_model",), feed_forward=("encoder_ffn_dim", "decoder_ffn_dim"),
        heads=("encoder_attention_heads", "decoder_attention_heads"), key_value_heads=(), head_size=None,
        last_norm=last_norm, scaled=lambda config: bool(config.scale_embedding), sinusoidal=sinusoidal,
    )  # fmt: skip


_PLAIN = Anatomy(axes=_LLAMA)
_T5_KIND = Anatomy(
    axes=_T5, hidden=("d_model",), feed_forward=("d_ff",), heads=("num_heads",), key_value_heads=(), head_size="d_kv",
    last_norm="decoder.final_layer_norm", tied_heads="SelfAttention",
)  # fmt: skip
_POST_NORM = "model.decoder.layers.{last}.final_layer_norm"
ANATOMIES: dict[str, Anatomy] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "smollm3"), _PLAIN),
    "qwen3": Anatomy(axes=_LLAMA | _HEAD_NORMS),
    "gemma2": Anatomy(axes=_GEMMA2, gain=1.0, scaled=lambda _config: True),
    "gemma3_text": Anatomy(axes=_GEMMA2 | _HEAD_NORMS, gain=1.0, scaled=lambda _config: True),
    "phi3": Anatomy(axes=_PHI3),
    "gpt2": _gpt(_GPT2, transposed=True),
    "gptj": _gpt(_GPTJ),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5_KIND),
    "bart": _bart(_POST_NORM),
    "marian": _bart(_POST_NORM, sinusoidal=True),
    "pegasus": _bart("model.decoder.layer_norm"),
}


def anatomy_of(model: Any) -> Anatomy:
    """The anatomy of a transformers model. Raises `ModelError` for one that is not in the table."""
    anatomy = ANATOMIES.get(model.config.model_type)
    if anatomy is None:
        raise ModelError(
            f"{describe(model)}: instil does not know which of its weights belong together, so its width cannot be set;"
            f" cut layers only, or choose one of {', '.join(sorted(ANATOMIES))}"
        )
    try:
        for name in model.state_dict():
            anatomy.axes_of(name)
    except KeyError as error:
        raise ModelError(
            f"{describe(model)} has a weight that others of its kind lack, {name}, so its width cannot be cut; cut"
            " layers only"
        ) from error
    return anatomy
