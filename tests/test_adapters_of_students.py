"""LoRA, DoRA and QLoRA: what is trained, and that a merged model computes what the adapted one did."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

import tiny
from instil.core.errors import ConfigError
from instil.data.tokens import Encoded
from instil.models.family import family_of
from instil.models.loading import load_model
from instil.objectives.fused import Mix
from instil.run.pipeline import Pipeline
from instil.run.recipe_file import read_recipe
from instil.train.adaptation import Adaptation
from instil.train.config import Budget, LoopConfig
from instil.train.loop import train
from instil.train.task import RowLoss, TextTask
from instil.train.teach import adapt, merged
from project import models_folder, project

KINDS = ("lora", "dora", "qlora")


def _logits(model: torch.nn.Module, name: str) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 13, 21, 1]])
    more = {"labels": ids} if name == "t5" else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


@pytest.mark.parametrize("name", ["llama", "t5", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_merging_keeps_what_is_computed(kind: str, name: str) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    model = adapt(tiny.tiny_model(name), Adaptation(kind=kind, rank=2), seed=1).eval()  # type: ignore[arg-type]
    learned = [each for each in model.parameters() if each.requires_grad]
    assert 0 < sum(each.numel() for each in learned) < 0.35 * sum(each.numel() for each in model.parameters())
    with torch.no_grad():
        for each in learned:
            each.add_(0.05 * torch.randn_like(each))
    before = _logits(model, name)
    plain = merged(model)
    assert not any("lora" in key or "4bit" in type(part).__name__ for key, part in plain.named_modules())
    torch.testing.assert_close(_logits(plain, name), before, atol=2e-4, rtol=2e-4)


def test_four_bits_are_about_the_weights_that_were(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    # Rows of whole blocks, which bitsandbytes reads rightly on every processor.
    wide = tiny.scatter(hf.LlamaForCausalLM(hf.LlamaConfig(**{**tiny._LLAMA, "hidden_size": 64}))).eval()
    old = wide.model.layers[0].mlp.up_proj.weight.detach().clone()
    model = adapt(wide, Adaptation(kind="qlora", rank=2), seed=1).eval()
    assert any("4bit" in type(part).__name__ for part in model.modules())
    before = _logits(model, "llama")
    plain = merged(model)
    new = plain.model.layers[0].mlp.up_proj.weight
    assert 0 < float((new - old).abs().max()) < 0.2 * float(old.abs().max())
    torch.testing.assert_close(_logits(plain, "llama"), before, atol=2e-4, rtol=2e-4)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'instil\[qlora\]', or use kind: lora"):
        adapt(tiny.tiny_model("llama"), Adaptation(kind="qlora"), seed=1)


@pytest.mark.parametrize("kind", ["dora", "qlora"])
def test_a_stopped_run_goes_on_to_the_same_weights(kind: str, tmp_path: Path) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")

    def task() -> TextTask:
        model = adapt(tiny.tiny_model("llama"), Adaptation(kind=kind, rank=2), seed=1)  # type: ignore[arg-type]
        examples = [Encoded(str(n), (5, 6 + n, 7), (8 + n, 9, tiny.END)) for n in range(6)]
        return TextTask(RowLoss(model, family_of(model, pad_id=tiny.PAD), Mix(hard=1.0)), examples)

    config = LoopConfig(budget=Budget(steps=4), batch_tokens=20, checkpoint_steps=1, trackers=(), precision="fp32")
    whole, resumed = task(), task()
    for _ in train(whole, config, folder=tmp_path / "whole", seed=3):
        pass
    for report in train(task(), config, folder=tmp_path / "stopped", seed=3):
        if report.step == 3:
            break
    assert [report.step for report in train(resumed, config, folder=tmp_path / "stopped", seed=3)] == [3, 4]
    for one, other in zip(
        merged(whole.module.model).parameters(), merged(resumed.module.model).parameters(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["dora", "qlora"])
def test_a_teacher_is_taught_through_an_adapter_too(kind: str, tmp_path: Path) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    folder = project(tmp_path / "p", "llama", pairs=30, teacher={"teach": {"adapt": {"kind": kind}}})
    pipeline = Pipeline(read_recipe(folder / "recipe.yaml"), folder)
    artifact = pipeline.teacher.artifact
    assert artifact is not None and (artifact.folder / "adapter" / "adapter_model.safetensors").is_file()
    taught = pipeline.teacher.loaded.model
    before = load_model(str(models_folder() / "llama")).model
    assert type(taught) is type(before)
    assert not torch.equal(_logits(taught, "llama"), _logits(before, "llama"))
