"""The output layer of a model as plain numbers: what turns a hidden state into logits.

Shapes: N rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from instil.core.errors import ModelError


@dataclass(frozen=True, slots=True)
class Head:
    """`logits_NV = softcap(scale * hidden_ND @ weight_VD.T + bias_V)[:, :n_valid]`, the model's own logits.

    `weight_VD`: shape `(V, D)`, the live parameter, so gradients reach it. `bias_V`: shape `(V,)` or None.
    `softcap`: `softcap * tanh(x / softcap)` bounds the logits (Gemma 2), or None.
    `n_valid`: ids from here up only pad the embedding to a round size; nothing predicts them.
    """

    weight_VD: Float[Tensor, "V D"]
    bias_V: Float[Tensor, V] | None
    scale: float
    softcap: float | None
    n_valid: int

    def logits(self, hidden_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N n_valid"]:
        """The dense logits `(N, n_valid)` of a few rows. Objectives never call this on a whole batch."""
        logits_NV = self.scale * (hidden_ND @ self.weight_VD[: self.n_valid].T)
        if self.bias_V is not None:
            logits_NV = logits_NV + self.bias_V[: self.n_valid]
        return logits_NV if self.softcap is None else self.softcap * torch.tanh(logits_NV / self.softcap)


def head_of(model: nn.Module, *, n_valid: int | None = None) -> Head:
    """The head of `model`, wrapped by peft or not. Call it anew for each step: adapters on the head change it.

    Raises `ModelError` if the model has no output embedding or one that is not a plain linear layer.
    """
    model = unwrap(model)
    weight_VD, bias_V = _linear(model)
    logits_bias = getattr(model, "final_logits_bias", None)
    if logits_bias is not None:
        flat_V = logits_bias.reshape(-1).to(weight_VD.device)
        bias_V = flat_V if bias_V is None else bias_V + flat_V
    config: Any = model.config
    softcap = getattr(config.get_text_config(decoder=True), "final_logit_softcapping", None)
    rows = weight_VD.shape[0]
    if n_valid is not None and not 0 < n_valid <= rows:
        raise ModelError(
            f"{describe(model)} has {rows} output ids, but n_valid is {n_valid}; use the model's own tokenizer"
        )
    return Head(weight_VD, bias_V, _scale(config), softcap, n_valid or rows)


def unwrap(model: Any) -> Any:
    """The transformers model inside a peft wrapper; its adapters stay in their places and stay active.

    Raises `ModelError` for prompt tuning and its kin, whose virtual tokens live in the wrapper itself.
    """
    if hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
        active: Any = model.active_peft_config
        if getattr(active, "is_prompt_learning", False):
            raise ModelError(f"the adapter is of type {active.peft_type.value}, which adds virtual tokens; use LoRA")
        return model.get_base_model()
    return model


def _linear(model: Any) -> tuple[Tensor, Tensor | None]:
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if layer is None:
        raise ModelError(f"{describe(model)} has no output layer over a vocabulary; choose a model that generates text")
    if hasattr(layer, "modules_to_save"):
        layer = layer.original_module if layer.disable_adapters else layer.modules_to_save[layer.active_adapters[0]]
    plain = layer.get_base_layer() if _is_lora(layer) else layer
    if not isinstance(plain, nn.Linear) or not plain.weight.is_floating_point():
        raise ModelError(
            f"the output layer of {describe(model)} is {type(layer).__name__}, neither a plain linear layer nor one "
            "with plain LoRA; leave it unquantised and out of the adapter's target_modules"
        )
    return (plain.weight if plain is layer else _with_lora(layer)), plain.bias


def _is_lora(layer: Any) -> bool:
    """Whether `layer` is a linear layer whose adapters only add a low-rank product to its weight."""
    added = ("lora_A", "get_delta_weight", "lora_variant", "lora_bias")
    return all(hasattr(layer, name) for name in added) and not layer.lora_variant and not any(layer.lora_bias.values())


def _with_lora(layer: Any) -> Tensor:
    """The weight with its active adapters added. LoRA dropout on this one layer is left out."""
    weight_VD: Tensor = layer.get_base_layer().weight
    if layer.merged or layer.disable_adapters:
        return weight_VD
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            weight_VD = weight_VD + layer.get_delta_weight(adapter).to(weight_VD.dtype)
    return weight_VD


# How the architectures that scale their logits read their own configuration.
_SCALES: dict[str, Callable[[Any], float]] = {
    **dict.fromkeys(("t5", "longt5"), lambda config: config.d_model**-0.5 if config.scale_decoder_outputs else 1.0),
    **dict.fromkeys(
        ("umt5", "switch_transformers", "udop"),
        lambda config: config.d_model**-0.5 if config.tie_word_embeddings else 1.0,
    ),
    **dict.fromkeys(("cohere", "cohere2"), lambda config: config.logit_scale),
    **dict.fromkeys(
        ("granite", "granitemoe", "granitemoeshared", "granitemoehybrid"), lambda config: 1 / config.logits_scaling
    ),
    "falcon_h1": lambda config: config.lm_head_multiplier,
}


def _scale(config: Any) -> float:
    rule = _SCALES.get(config.model_type)
    return float(rule(config)) if rule else 1.0


def describe(model: Any) -> str:
    """The class of `model` and its architecture, for messages."""
    return f"{type(model).__name__} ({model.config.model_type})"
