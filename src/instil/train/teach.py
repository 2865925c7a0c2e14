"""Teaching: fine-tuning the teacher on gold targets, whole, in its last layers, or through an adapter."""

from __future__ import annotations

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from instil.core.errors import ConfigError
from instil.models.layers import stack_of
from instil.train.adaptation import Adaptation
from instil.train.quantised import dequantised, in_four_bits


def adapt(model: nn.Module, how: Adaptation, *, seed: int) -> nn.Module:
    """`model` with the weights that `how` names trainable and all others frozen; for an adapter, wrapped by peft, its
    random weights drawn from `seed`."""
    if how.kind == "full":
        return model
    stack = stack_of(model).layers
    count = len(stack)
    layers = how.layers if how.layers is not None else (count if how.by_adapter else None)
    if layers is None or layers > count:
        raise ConfigError(f"adapt.layers is {how.layers} but the model has {count} layers; give 1 to {count}")
    if how.by_adapter:
        torch.manual_seed(seed)
        return _with_lora(model, how, count, layers)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in stack[count - layers :]:
        layer.requires_grad_(True)
    return model


def _linear_layers(model: nn.Module, first: int) -> list[str]:
    """Full names of the linear layers in the decoder's layers from `first` on, and of all the encoder's."""
    stack = stack_of(model)
    numbers = range(first, len(stack.layers))
    prefixes = tuple(f"{stack.path}.{number}." for number in numbers)
    if getattr(model.config, "is_encoder_decoder", False):
        prefixes += (f"{stack_of(model, 'encoder').path}.",)
    linear = (nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, linear) and name.startswith(prefixes)]


def _with_lora(model: nn.Module, how: Adaptation, count: int, layers: int) -> PeftModel:
    if how.kind == "qlora":
        model = in_four_bits(model, _linear_layers(model, 0))
    config = LoraConfig(
        use_dora=how.kind == "dora",
        r=how.rank,
        lora_alpha=int(how.alpha or 2 * how.rank),
        lora_dropout=how.dropout,
        target_modules=_linear_layers(model, count - layers),
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",  # type: ignore[union-attr]
    )
    return get_peft_model(model, config)


def merged(model: nn.Module) -> nn.Module:
    """`model` as a plain transformers model: an adapter is added into the weights it adapts."""
    if not isinstance(model, PeftModel):
        return model
    if getattr(model.get_base_model(), "is_loaded_in_4bit", False):
        return dequantised(model)
    return model.merge_and_unload()
