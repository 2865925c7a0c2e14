"""From a `config.json` of transformers to a `Shape`. One function for each kind of config; nothing else knows keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from instil.core.errors import ModelError
from instil.plan.shape import Shape

Facts = Mapping[str, Any]


def shape_of_config(name: str, config: Facts) -> Shape:
    """The shape that a config describes. Raises `ModelError` for an architecture that is not known here."""
    kind = str(config.get("model_type", ""))
    reader = _READERS.get(kind)
    if reader is None:
        raise ModelError(f"{name}: no arithmetic for model_type {kind!r}; known are {', '.join(sorted(_READERS))}")
    try:
        return replace(reader(name, config), context=_context(config))
    except (KeyError, TypeError) as error:
        raise ModelError(f"{name}: its config lacks {error}; take the config.json of the model's own folder") from error


def _context(config: Facts) -> int | None:
    inner = config.get("text_config") or config
    if "relative_attention_num_buckets" in inner:
        return None
    return next((inner[name] for name in ("max_position_embeddings", "n_positions", "n_ctx") if inner.get(name)), None)


def read_config(path: Path) -> Facts:
    """A `config.json`, or that of a model's folder."""
    place = path / "config.json" if path.is_dir() else path
    try:
        found = json.loads(place.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{place}: cannot be read as a model's config ({error}); name a folder or a file") from error
    if not isinstance(found, dict):
        raise ModelError(f"{place}: is no config of a model; name its config.json")
    return found


def _decoder(name: str, c: Facts, **more: Any) -> Shape:
    """What Llama's descendants have in common."""
    heads = c["num_attention_heads"]
    fields: dict[str, Any] = {
        "name": name,
        "width": c["hidden_size"],
        "layers": c["num_hidden_layers"],
        "heads": heads,
        "kv_heads": c.get("num_key_value_heads") or heads,
        "head_width": c.get("head_dim") or c["hidden_size"] // heads,
        "inner": c["intermediate_size"],
        "vocabulary": c["vocab_size"],
        "tied": c.get("tie_word_embeddings", False),
    }
    return Shape(**{**fields, **more})


def _llama(name: str, c: Facts) -> Shape:
    bias = bool(c.get("attention_bias"))
    return _decoder(name, c, qkv_bias=bias, out_bias=bias, inner_bias=bool(c.get("mlp_bias")))


def _windows(c: Facts) -> dict[str, Any]:
    """Windowed layers, for configs that switch windows on from a layer upwards."""
    if not c.get("use_sliding_window") or not c.get("sliding_window"):
        return {}
    return {
        "window": c["sliding_window"],
        "windowed": max(0, c["num_hidden_layers"] - c.get("max_window_layers", 0)),
    }


def _mistral(name: str, c: Facts) -> Shape:
    window = c.get("sliding_window")
    return _decoder(name, c, window=window, windowed=c["num_hidden_layers"] if window else 0)


def _qwen2(name: str, c: Facts) -> Shape:
    return _decoder(name, c, qkv_bias=True, **_windows(c))


def _qwen3(name: str, c: Facts) -> Shape:
    bias = bool(c.get("attention_bias"))
    return _decoder(name, c, qk_norm=True, qkv_bias=bias, out_bias=bias, **_windows(c))


def _qwen3_moe(name: str, c: Facts) -> Shape:
    return _decoder(
        name, c, qk_norm=True, inner=c["moe_intermediate_size"], experts=c["num_experts"],
        active_experts=c["num_experts_per_tok"], **_windows(c),
    )  # fmt: skip


def _mixtral(name: str, c: Facts) -> Shape:
    return _decoder(name, c, experts=c["num_local_experts"], active_experts=c["num_experts_per_tok"])


def _gemma3_text(name: str, c: Facts) -> Shape:
    every = c.get("sliding_window_pattern", 6)
    layers = c["num_hidden_layers"]
    return _decoder(
        name, c, tied=c.get("tie_word_embeddings", True), norms=4, qk_norm=True, window=c.get("sliding_window"),
        windowed=layers - layers // every,
    )  # fmt: skip


def _gemma3(name: str, c: Facts) -> Shape:
    text = {"vocab_size": 262_208, "head_dim": 256, **c["text_config"]}
    shape = _gemma3_text(name, text)
    return _decoder(
        name, text, tied=True, norms=4, qk_norm=True, window=shape.window, windowed=shape.windowed,
        vision=_siglip(c["vision_config"], shape.width),
    )  # fmt: skip


def _siglip(c: Facts, width: int) -> int:
    """Parameters of SigLIP's tower and of the projection into the text model's width."""
    d, f, patch = int(c["hidden_size"]), int(c["intermediate_size"]), int(c["patch_size"])
    patches = (int(c["image_size"]) // patch) ** 2
    layer = 4 * d * (d + 1) + 2 * d * f + f + d + 4 * d
    embeddings = 3 * patch**2 * d + d + patches * d
    return embeddings + int(c["num_hidden_layers"]) * layer + 2 * d + d * width + d


def _t5(name: str, c: Facts) -> Shape:
    return Shape(
        name=name, width=c["d_model"], layers=c.get("num_decoder_layers") or c["num_layers"],
        encoder_layers=c["num_layers"], heads=c["num_heads"], kv_heads=c["num_heads"], head_width=c["d_kv"],
        inner=c["d_ff"], vocabulary=c["vocab_size"], tied=c.get("tie_word_embeddings", True),
        gated=str(c.get("feed_forward_proj", "relu")).startswith("gated"),
        buckets=c.get("relative_attention_num_buckets", 32),
    )  # fmt: skip


def _bart(name: str, c: Facts) -> Shape:
    heads = c["decoder_attention_heads"]
    return Shape(
        name=name, width=c["d_model"], layers=c["decoder_layers"], encoder_layers=c["encoder_layers"], heads=heads,
        kv_heads=heads, head_width=c["d_model"] // heads, inner=c["decoder_ffn_dim"], vocabulary=c["vocab_size"],
        tied=c.get("tie_word_embeddings", True), gated=False, qkv_bias=True, out_bias=True, inner_bias=True,
        norm_bias=True, positions=c["max_position_embeddings"] + 2,
    )  # fmt: skip


def _gptj(name: str, c: Facts) -> Shape:
    return Shape(
        name=name, width=c["n_embd"], layers=c["n_layer"], heads=c["n_head"], kv_heads=c["n_head"],
        head_width=c["n_embd"] // c["n_head"], inner=c.get("n_inner") or 4 * c["n_embd"], vocabulary=c["vocab_size"],
        tied=c.get("tie_word_embeddings", False), gated=False, inner_bias=True, head_bias=True, norm_bias=True, norms=1,
    )  # fmt: skip


_READERS: dict[str, Callable[[str, Facts], Shape]] = {
    "bart": _bart,
    "gemma3": _gemma3,
    "gemma3_text": _gemma3_text,
    "gptj": _gptj,
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "phi3": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "t5": _t5,
}
