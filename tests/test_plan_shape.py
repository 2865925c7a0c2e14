"""Arithmetic of models: exact against transformers' own, and against torch's counter of FLOPs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from instil.core.errors import ModelError
from instil.plan.configs import shape_of_config
from instil.plan.models import find_model, known_models
from instil.plan.shape import Shape, active_parameters, parameters, parts
from instil.plan.tables import json_of
from instil.plan.work import adapter_parameters, backward_flops, forward_flops, kv_cache_bytes, mean_context

LLAMA = {
    "model_type": "llama", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 80, "tie_word_embeddings": True,
}  # fmt: skip
T5 = {
    "model_type": "t5", "d_model": 32, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4, "d_kv": 8, "d_ff": 64,
    "vocab_size": 80, "feed_forward_proj": "relu", "tie_word_embeddings": True,
}  # fmt: skip


def built(facts: dict[str, Any], device: str = "meta") -> Any:
    """The model that transformers makes of a config."""
    kind = facts["model_type"]
    config = CONFIG_MAPPING[kind](**{name: value for name, value in facts.items() if name not in ("hub", "model_type")})
    encoder_decoder = kind in ("t5", "bart")
    auto = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    auto = AutoModelForImageTextToText if kind == "gemma3" else auto
    with torch.device(device):
        return auto.from_config(config, attn_implementation="eager")


@pytest.mark.parametrize("name", sorted(json_of("models.json")))
def test_parameters_are_those_of_the_built_model(name: str) -> None:
    model = built(json_of("models.json")[name])
    assert parameters(known_models()[name]) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # Totals in the safetensors index of each repository on the hub.
        ("gemma-3-27b", 27_432_406_640),
        ("llama-3.1-405b", 405_853_388_800),
        ("phi-4", 14_659_507_200),
        ("qwq-32b", 32_763_876_352),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_parameters_are_those_of_the_published_weights(name: str, count: int) -> None:
    assert sum(parts(known_models()[name]).values()) == count


def test_other_architectures_count_too() -> None:
    moe = {
        "model_type": "mixtral", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64, "num_local_experts": 4,
        "num_experts_per_tok": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    shape = shape_of_config("moe", moe)
    model = built(moe)
    assert parameters(shape) == sum(weight.numel() for weight in model.parameters())
    assert parameters(shape) - active_parameters(shape) == 2 * 2 * 3 * 32 * 48


def _counted(model: Any, **inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops()


def test_forward_flops_are_those_that_torch_counts() -> None:
    length, model, shape = 12, built(LLAMA, "cpu"), shape_of_config("tiny", LLAMA)
    counted = _counted(model, input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
    flops = forward_flops(shape, length, 0, rows=length)
    whole = 4 * shape.query * length * length * shape.layers  # eager attention computes what the mask hides, too
    assert flops.attention == pytest.approx(whole * (length + 1) / (2 * length))
    # The rotary table is a product as well: positions by half a head's width.
    assert counted == pytest.approx(flops.products + flops.head + whole, rel=1e-3)


def test_forward_flops_of_an_encoder_decoder() -> None:
    source, target, model, shape = 10, 6, built(T5, "cpu"), shape_of_config("tiny", T5)
    ids = torch.zeros(1, source, dtype=torch.long)
    counted = _counted(model, input_ids=ids, decoder_input_ids=ids[:, :target], use_cache=False)
    flops = forward_flops(shape, source, target)
    hidden = 4 * shape.query * shape.layers * target * (target - mean_context(target))
    assert counted == pytest.approx(flops.total + hidden, rel=1e-9)


def test_frozen_products_cost_half_in_the_backward_pass() -> None:
    flops = forward_flops(known_models()["llama-3.1-8b"], 500, 100)
    assert backward_flops(flops) == 2 * flops.total
    assert backward_flops(flops, frozen=True) == flops.products + flops.head + 2 * flops.attention


@given(length=st.integers(1, 400), window=st.integers(1, 400))
def test_mean_context_is_the_mean(length: int, window: int) -> None:
    seen = [min(position, window) for position in range(1, length + 1)]
    assert mean_context(length, window) == pytest.approx(sum(seen) / length)


def test_the_cache_is_that_of_transformers() -> None:
    shape, model = shape_of_config("tiny", LLAMA), built(LLAMA, "cpu")
    cache = model(torch.zeros(1, 9, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_cache_bytes(shape, 9, width_bytes=4) == held


def test_windowed_layers_keep_their_window() -> None:
    gemma = known_models()["gemma-3-27b"]
    assert gemma.windowed == 52 and gemma.window == 1024  # five of six layers, as its report tells (arXiv 2503.19786)
    grown = kv_cache_bytes(gemma, 20_000) - kv_cache_bytes(gemma, 10_000)
    assert grown == 2 * gemma.key * 2 * (gemma.layers - gemma.windowed) * 10_000


def test_adapters_are_those_of_peft() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(built(LLAMA, "cpu"), LoraConfig(r=4, target_modules="all-linear"))
    counted = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert adapter_parameters(shape_of_config("tiny", LLAMA), 4) == counted


def test_a_model_is_found_by_folder_file_id_and_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert find_model(str(tmp_path)).width == find_model(str(tmp_path / "config.json")).width == 48
    assert find_model("google/gemma-3-27b-it") is find_model("Gemma-3-27B") is known_models()["gemma-3-27b"]


@pytest.mark.parametrize(
    ("ref", "says"), [("gpt-5", "unknown model 'gpt-5'; name a folder"), ("nobody/nothing", "neither from the hub")]
)
def test_an_unknown_model_is_named(ref: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=says):
        find_model(ref)


@pytest.mark.parametrize(
    ("config", "says"),
    [({"model_type": "mamba"}, "no arithmetic for model_type 'mamba'"), ({"model_type": "llama"}, "lacks 'num_att")],
)
def test_a_config_that_says_too_little_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        shape_of_config("odd", config)


def test_a_shape_says_what_it_is() -> None:
    assert isinstance(known_models()["t5-base"], Shape) and known_models()["t5-base"].is_encoder_decoder
    assert not known_models()["gemma-3-4b"].is_encoder_decoder
