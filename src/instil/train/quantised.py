"""Linear layers in four bits while an adapter beside them is trained (QLoRA, Dettmers et al. 2023, arXiv 2305.14314),
by bitsandbytes; and what was trained as plain layers again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from instil.core.errors import ConfigError

_WORST = 0.2
"""The largest error of a weight against the largest weight: half the widest step of NormalFloat is 0.15."""


def in_four_bits(model: Any, names: Sequence[str]) -> Any:
    """`model` with its linear layers `names` in 4-bit NormalFloat, frozen, in place. Raises `ConfigError` where
    bitsandbytes is not installed or does not run."""
    bnb = _bitsandbytes()
    whole = getattr(model, "_keep_in_fp32_modules", None) or ()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    for name in names:
        old = model.get_submodule(name)
        # GPT-2's layers are of another kind; T5 looks at the type of some weights. They stay as they are.
        if not isinstance(old, nn.Linear) or name.rpartition(".")[2] in whole:
            continue
        new = bnb.nn.Linear4bit(
            old.in_features, old.out_features, bias=old.bias is not None, compute_dtype=old.weight.dtype,
            quant_type="nf4", device="meta",
        )  # fmt: skip
        new.weight = bnb.nn.Params4bit(old.weight.detach(), requires_grad=False, quant_type="nf4")
        new.bias = old.bias
        new.register_load_state_dict_pre_hook(_keep_weight)
        # With AVX-512 it lays the weights out anew in the first evaluation, and what merges them would misread them.
        new.support_avx512bf16_for_cpu = False
        try:
            new = new.to(device)
            if _is_near(new, old):
                model.set_submodule(name, new)
        except (RuntimeError, NotImplementedError) as error:
            raise ConfigError(f"adapt.kind is qlora, but bitsandbytes does not run on {device}; use lora") from error
    model.is_loaded_in_4bit = True  # What peft goes by.
    return model


def _is_near(new: Any, old: nn.Linear) -> bool:
    """Whether bitsandbytes gives back what it was given, as far as four bits tell. Its 0.50 does not, on processors
    with AVX-512, where a row is no whole number of its blocks of 64; such a layer stays as it is."""
    weight_OI = old.weight.detach().float().cpu()
    found_OI = _bitsandbytes().functional.dequantize_4bit(new.weight.data, new.weight.quant_state).float().cpu()
    return bool((found_OI - weight_OI).abs().max() <= _WORST * weight_OI.abs().max())


def dequantised(model: Any) -> Any:
    """The model inside the `PeftModel` `model`, each adapter added to what its layer computed with; all are plain."""
    from peft.tuners.lora.bnb import Linear4bit

    plain = model.get_base_model()
    adapted = {name: layer for name, layer in plain.named_modules() if isinstance(layer, Linear4bit)}
    for name, layer in adapted.items():
        plain.set_submodule(name, _plain(layer.get_base_layer(), layer.get_delta_weight(layer.active_adapters[0])))
    four = _bitsandbytes().nn.Linear4bit
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, four):
            plain.set_submodule(name, _plain(layer, None))
    del plain.is_loaded_in_4bit
    return model.merge_and_unload()


def _plain(layer: Any, delta: torch.Tensor | None) -> nn.Linear:
    weight = _bitsandbytes().functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    made.weight = nn.Parameter(weight if delta is None else weight + delta.to(weight.dtype))
    made.bias = layer.bias
    return made


def _keep_weight(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A checkpoint's frozen weights are those that are here already; its parts of them would not be known again."""
    for key in [key for key in state if key.startswith(f"{prefix}weight")]:
        del state[key]
    state[f"{prefix}weight"] = layer.weight


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        raise ConfigError(
            "adapt.kind is qlora, which needs bitsandbytes; pip install 'instil[qlora]', or use kind: lora"
        ) from None
    return bitsandbytes
