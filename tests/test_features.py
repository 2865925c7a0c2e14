"""Features: zero between equals, as written out plainly, drawn towards the teacher, left behind at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from command import instil
from instil.core.errors import ConfigError
from instil.labels.teacher import Teacher
from instil.models.family import family_of
from instil.models.students.depth import keep_layers
from instil.objectives.features import feature_loss
from instil.objectives.fused import Mix
from instil.objectives.schedules import Schedule
from instil.train.features import FeatureRowLoss, Features, pairs_of
from instil.train.live import LiveTask, dense_labels
from instil.train.task import RowLoss, TextTask
from project import models_folder, project
from test_loop import SEED, distance, make_config, make_examples, run, uniform_labels, weights
from test_on_policy import on_policy


def features_of(teacher: Any, pairs: tuple[tuple[int, int], ...], **options: Any) -> Features:
    chosen = {"kind": "mse", "weight": Schedule.constant(1.0), **options}
    return Features(teacher=teacher, family=family_of(teacher, pad_id=tiny.PAD), pairs=pairs, **chosen)


def module_of(student: Any, features: Features, mix: Mix | None = None) -> FeatureRowLoss:
    return FeatureRowLoss(RowLoss(student, family_of(student, pad_id=tiny.PAD), mix or Mix(hard=1.0)), features)


def test_losses_are_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    own_ND, their_ND = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    mse = sum(float(((s - t) ** 2).sum() / (t**2).sum()) for s, t in zip(own_ND, their_ND, strict=True))
    cosine = sum(1 - float(s @ t / (s.norm() * t.norm())) for s, t in zip(own_ND, their_ND, strict=True))
    assert float(feature_loss("mse", own_ND, their_ND)) == pytest.approx(mse, rel=1e-5)
    assert float(feature_loss("cosine", own_ND, their_ND)) == pytest.approx(cosine, rel=1e-5)
    assert float(feature_loss("cosine", 3 * own_ND, own_ND)) == pytest.approx(0, abs=1e-5)
    assert float(feature_loss("mse", 0 * own_ND, own_ND)) == pytest.approx(5)


def test_pairs_follow_what_was_kept() -> None:
    assert pairs_of(3, 6, (0, 2, 5)) == ((0, 1), (1, 4), (2, 5))
    assert pairs_of(3, 6) == ((0, 1), (1, 3), (2, 5))
    assert pairs_of(2, 2) == ((0, 0), (1, 1))


@pytest.mark.parametrize("name", ["llama", "t5", "gpt2", "gemma3"])
@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_a_student_that_is_its_teacher_has_nothing_to_match(name: str, kind: Any) -> None:
    model = tiny.tiny_model(name)
    module = module_of(tiny.tiny_model(name), features_of(model, pairs_of(2, 2), kind=kind))
    batch = TextTask(module, make_examples(5)).batch([0, 1, 2, 3])
    module.eval()
    plain = module(batch)
    module.training = True  # Without dropout.
    assert float(module(batch).total) == pytest.approx(float(plain.total), abs=1e-3)


def test_the_total_is_plain_loss_and_weighted_mean_over_pairs() -> None:
    teacher, student = tiny.tiny_model("llama"), tiny.tiny_model("llama", seed=1)
    found = []
    for weight in (0.0, 1.0, 2.5):
        module = module_of(student, features_of(teacher, pairs_of(2, 2), weight=Schedule.constant(weight)))
        found.append(float(module.train()(TextTask(module, make_examples(4)).batch([0, 1, 2])).total))
    assert found[1] > found[0]
    assert found[2] - found[0] == pytest.approx(2.5 * (found[1] - found[0]), rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_training_draws_hidden_states_together_and_leaves_the_teacher_alone(name: str, tmp_path: Path) -> None:
    teacher = tiny.tiny_model(name)
    student = keep_layers(teacher, [0])
    module = module_of(student, features_of(teacher, pairs_of(1, 2, (0,))), Mix(soft=0.0, hard=0.0))
    task = TextTask(module, make_examples(4), labels={1.0: uniform_labels})
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    reports = run(task, make_config({"steps": 30}, batch_tokens=500, learning_rate=1e-2), tmp_path)
    assert reports[-1].loss < 0.6 * reports[0].loss
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())
    assert not any("teacher" in key for key in module.state_dict())


def test_other_widths_are_mapped_and_resume_as_uninterrupted(tmp_path: Path) -> None:
    import transformers as hf

    teacher = tiny.tiny_model("llama")

    def task() -> TextTask:
        torch.manual_seed(5)
        config = hf.LlamaConfig(
            **{**teacher.config.to_dict(), "hidden_size": 16, "head_dim": 4, "num_hidden_layers": 1}
        )
        return TextTask(module_of(hf.LlamaForCausalLM(config), features_of(teacher, pairs_of(1, 2))), make_examples(8))

    config = make_config({"steps": 4}, checkpoint_steps=1)
    whole = task()
    assert [tuple(each.weight.shape) for each in whole.module.maps] == [(32, 16)]  # type: ignore[attr-defined]
    run(whole, config, tmp_path / "whole")
    from instil.train.loop import train

    for report in train(task(), config, folder=tmp_path / "cut", seed=SEED):
        if report.step == 3:
            break
    resumed = task()
    run(resumed, config, tmp_path / "cut")
    assert distance(weights(resumed), weights(whole)) == 0


def test_a_layer_that_is_not_there_is_named() -> None:
    model = tiny.tiny_model("llama")
    with pytest.raises(ConfigError, match="layer 7 of the teacher, which has 0 to 1"):
        module_of(tiny.tiny_model("llama"), features_of(model, ((0, 7),)))


@pytest.mark.timeout(300)
def test_features_in_a_recipe(tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=60, teacher={"teach": None}, labels={"targets": "gold"},
                     distil={"features": {"weight": 2.0, "kind": "cosine"}, "without_teacher": False})  # fmt: skip
    ended = instil("distil", "recipe.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    losses = [json.loads(line)["loss"] for line in next(folder.glob("runs/*/distil-*/history.jsonl")).open()]
    other = instil("distil", "recipe.yaml", "--set", "distil.features=null", cwd=folder)
    assert other.code == 0 and "distil: done" in other.err, other.err
    kept = next(folder.glob("runs/*/distil-*/model/config.json"))
    assert losses and "maps" not in kept.read_text()


@pytest.mark.timeout(300)
def test_two_teachers_in_a_recipe(tmp_path: Path) -> None:
    """The second one's store is made by a recipe of its own, and mixed in by the first's."""
    plain = {"teacher": {"teach": None}, "labels": {"targets": "gold"}, "distil": {"without_teacher": False}}
    project(tmp_path, "llama", pairs=60, **plain)
    model = f"teacher.model={models_folder() / 'qwen3'}"
    other = instil("label", "recipe.yaml", "--set", "name=other", "--set", model, "--json", cwd=tmp_path)
    store = json.loads(other.out)["folder"]
    added = ("--set", f"labels.others=[{{store: {store}, weight: 0.5}}]")
    alone, both = (instil("distil", "recipe.yaml", "--json", *more, cwd=tmp_path) for more in ((), added))
    assert alone.code == both.code == 0, both.err
    assert "distil: done" in both.err and "label: reused" in both.err, both.err
    ended = instil("distil", "recipe.yaml", "--set", f"labels.others=[{{store: {store}, weight: 1.0}}]", cwd=tmp_path)
    assert ended.code == 2 and "weight" in ended.err


def test_features_go_with_what_the_student_writes(tmp_path: Path) -> None:
    """Features add the same, whatever else is learned of these texts."""
    teacher, student = tiny.tiny_model("llama"), tiny.tiny_model("llama", seed=1)
    module = module_of(student, features_of(teacher, pairs_of(2, 2)), Mix(soft=1.0, hard=0.0))
    reader = Teacher(model=teacher.requires_grad_(False), family=family_of(teacher, pad_id=tiny.PAD))

    def task_of(module: RowLoss) -> LiveTask:
        return LiveTask(
            module, make_examples(4), score=lambda examples: dense_labels(reader.rows(examples)),
            own=on_policy(student),
        )  # fmt: skip

    plain = RowLoss(student, module.family, module.mix)
    (both,) = task_of(module).renew([task_of(module).batch([0, 1, 2])], 0)
    assert both.own
    module.train()
    with torch.no_grad():
        added = [
            (module(batch).total - plain(batch).total).item()
            for batch in (both, replace(both, labels={}, own=False))
        ]  # fmt: skip
    assert added[0] == pytest.approx(added[1], rel=1e-4) and added[0] > 1
