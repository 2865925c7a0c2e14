"""Fewer bits and fewer weights: what is baked is what was trained, and stays what it is when an engine packs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from pydantic import ValidationError

import tiny
from command import instil
from instil.compress.config import CompressConfig
from instil.compress.rounding import bake, compress, matrices, packed_bytes, rounded_int4, rounded_int8
from instil.core.errors import ModelError
from instil.run.stages.compress import _told
from project import finished, project

METHODS = ("int8", "2:4", "magnitude")
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            return model(IDS, decoder_input_ids=IDS).logits
        return model(IDS).logits


@pytest.mark.parametrize("name", ["t5", "bart", "llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_baked_computes_the_same(name: str, method: Any) -> None:
    model = tiny.tiny_model(name)
    whole, names = logits(model), set(model.state_dict())
    compress(model, CompressConfig(method=method))
    left = logits(model)
    assert not torch.equal(left, whole)
    bake(model)
    torch.testing.assert_close(logits(model), left, rtol=0, atol=0)
    assert set(model.state_dict()) == names


@pytest.mark.parametrize(("rounding", "levels"), [(rounded_int8, 255), (rounded_int4, 16)])
def test_rounding_twice_is_rounding_once(rounding: Any, levels: int) -> None:
    weight = torch.randn(6, 64)
    once = rounding(weight)
    torch.testing.assert_close(rounding(once), once, rtol=1e-6, atol=1e-7)
    groups = once.unflatten(-1, (-1, 32)) if levels == 16 else once[:, None]
    assert all(len(group.unique()) <= levels for row in groups for group in row)
    assert torch.equal(rounding(torch.zeros(2, 32)), torch.zeros(2, 32))


def test_engines_keep_rounded_weights_as_they_are() -> None:
    import gguf

    once = rounded_int4(torch.randn(8, 64)).numpy()
    kind = gguf.GGMLQuantizationType.Q4_0
    packed = gguf.quants.dequantize(gguf.quants.quantize(once, kind), kind)
    np.testing.assert_allclose(packed, once, rtol=1e-3, atol=1e-5)  # Scales in half precision.


def test_two_of_each_four_stay_and_the_smallest_go() -> None:
    model = tiny.tiny_model("llama")
    before = {name: module.weight.detach().clone() for name, module in matrices(model)}
    compress(model, CompressConfig(method="2:4"))
    bake(model)
    for name, module in matrices(model):
        fours = module.weight.unflatten(-1, (-1, 4))
        assert ((fours != 0).sum(-1) == 2).all()
        kept, gone = module.weight != 0, module.weight == 0
        assert torch.equal(module.weight[kept], before[name][kept]) and gone.sum() == kept.sum()
    other = tiny.tiny_model("llama")
    compress(other, CompressConfig(method="magnitude", sparsity=0.75))
    bake(other)
    for name, module in matrices(other):
        gone = module.weight == 0
        assert gone.float().mean() == pytest.approx(0.75, abs=0.01)
        assert before[name][gone].abs().max() <= before[name][~gone].abs().min()


def test_the_gradient_passes_straight_through_and_rounded_inputs_count() -> None:
    model = tiny.tiny_model("llama")
    whole = logits(model)
    compress(model, CompressConfig(method="int8", activations=True))
    rounded = logits(model)
    model(IDS).logits.sum().backward()
    assert all(module.parametrizations.weight.original.grad.abs().sum() > 0 for _, module in matrices(model))
    bake(model)
    weights_alone = logits(model)
    assert (weights_alone - whole).norm() < (rounded - whole).norm()


def test_sizes_and_shapes_that_do_not_fit() -> None:
    model = tiny.tiny_model("llama")
    full = sum(parameter.numel() for parameter in model.parameters())
    own = sum(module.weight.numel() for _, module in matrices(model))
    rows = sum(module.weight.shape[0] for _, module in matrices(model))
    assert packed_bytes(model, CompressConfig(method="int8")) == 2 * (full - own) + own + 2 * rows
    with pytest.raises(ModelError, match="no multiple of 32"):
        compress(tiny.tiny_model("llama"), CompressConfig(method="int4"))
    with pytest.raises(ValidationError, match="int8 only"):
        CompressConfig(method="int4", activations=True)


@pytest.mark.parametrize(
    ("low", "said"), [(0.98, "; not faster here in torch (0.98 to 1.40 x in"), (1.02, "; 1.10 x as fast here in torch")]
)
def test_faster_is_what_was_faster_in_every_turn(low: float, said: str) -> None:
    result = {
        "loss_before": 1.0, "loss_compressed": 1.1, "loss": 1.05, "bytes_before": 100, "bytes_packed": 50,
        "speed": 1.1, "speed_range": [low, 1.4],
    }  # fmt: skip
    assert said in _told(CompressConfig(method="int8"), result)


@pytest.mark.timeout(300)
def test_a_recipe_compresses_and_recovers(tmp_path: Path) -> None:
    loop = {"budget": {"steps": 6}, "batch_tokens": 512, "trackers": [], "checkpoint_steps": 2}
    folder = project(
        tmp_path / "p", "llama", pairs=60, distil={"without_teacher": False},
        compress={"method": "int8", "activations": True, "loop": loop},
    )  # fmt: skip
    ended = instil("compress", "recipe.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    made = json.loads(ended.out)
    result = made["result"]
    assert result["recovery"]["step"] == 6 and result["bytes_packed"] < result["bytes_before"] / 2
    assert "int8: held-out loss" in ended.err and "here in torch" in ended.err
    low, high = result["speed_range"]
    assert 0 < low <= result["speed"] <= high
    from safetensors.torch import load_file

    weights = load_file(finished(folder, "compress") / "model" / "model.safetensors")
    matrix = next(tensor for name, tensor in weights.items() if "q_proj" in name)
    torch.testing.assert_close(rounded_int8(matrix), matrix, rtol=1e-6, atol=1e-7)


@pytest.mark.timeout(300)
def test_units_go_and_the_student_recovers(tmp_path: Path) -> None:
    loop = {"budget": {"steps": 4}, "batch_tokens": 512, "trackers": [], "checkpoint_steps": 2}
    folder = project(
        tmp_path / "p", "llama", pairs=60, teacher={"teach": None}, labels={"targets": "gold"},
        distil={"without_teacher": False}, compress={"method": "structured", "sparsity": 0.5, "loop": loop},
    )  # fmt: skip
    ended = instil("compress", "recipe.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)["result"]
    assert result["units"] == [48, 24] and result["recovery"]["step"] == 4 and 0 < result["kept_importance"] < 1
    assert result["loss"] < result["loss_compressed"]
    model = hf.AutoModelForCausalLM.from_pretrained(finished(folder, "compress") / "model")
    assert model.config.intermediate_size == 24
    assert result["bytes_packed"] == 2 * model.num_parameters()
