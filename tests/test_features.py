"""Features: zero between equals, as written out plainly, drawn towards the teacher, left behind at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer

import tiny
from command import instil
from instil.core.errors import ConfigError
from instil.data.tokens import Encoded
from instil.labels.teacher import Teacher
from instil.models.attention import shared_heads
from instil.models.family import family_of
from instil.models.positions import source_positions, target_positions
from instil.models.students.depth import keep_layers
from instil.models.watching import watched
from instil.objectives.config import Feature, FeaturePlace
from instil.objectives.features import attention_loss, feature_loss, relation_loss, relations
from instil.objectives.fused import Mix
from instil.objectives.schedules import Schedule
from instil.run.recipe_file import read_recipe
from instil.train.adaptation import Adaptation
from instil.train.features import FeatureRowLoss, Features, pairs_of
from instil.train.live import LiveTask, dense_labels
from instil.train.task import RowLoss, TextTask
from instil.train.teach import adapt
from project import models_folder, project
from test_loop import SEED, distance, make_config, make_examples, run, uniform_labels, weights
from test_on_policy import on_policy


def features_of(pairs: tuple[tuple[int, int], ...], **options: Any) -> Features:
    return Features(pairs=pairs, **{"weight": Schedule.constant(1.0), **options})


def module_of(student: Any, teacher: Any, *features: Features, mix: Mix | None = None) -> FeatureRowLoss:
    plain = RowLoss(student, family_of(student, pad_id=tiny.PAD), mix or Mix(hard=1.0))
    return FeatureRowLoss(plain, teacher, family_of(teacher, pad_id=tiny.PAD), features)


def test_losses_are_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    own_ND, their_ND = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    mse = sum(float(((s - t) ** 2).sum() / (t**2).sum()) for s, t in zip(own_ND, their_ND, strict=True))
    cosine = sum(1 - float(s @ t / (s.norm() * t.norm())) for s, t in zip(own_ND, their_ND, strict=True))
    assert float(feature_loss("mse", own_ND, their_ND)) == pytest.approx(mse, rel=1e-5)
    assert float(feature_loss("cosine", own_ND, their_ND)) == pytest.approx(cosine, rel=1e-5)
    assert float(feature_loss("cosine", 3 * own_ND, own_ND)) == pytest.approx(0, abs=1e-5)
    assert float(feature_loss("mse", 0 * own_ND, own_ND)) == pytest.approx(5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attention_maps_are_their_definition() -> None:
    """Heads may differ. Written out for each position in fp64."""
    own_NHT, their_NHT = normal(4, 3, 5).softmax(-1), normal(4, 2, 5, seed=1).softmax(-1)
    weight_N = torch.tensor([1.0, 0.5, 2.0, 0.0])
    wanted = 0.0
    for own_HT, their_HT, weight in zip(own_NHT, their_NHT, weight_N, strict=True):
        own_T, their_T = own_HT.sum(0) / 3, their_HT.sum(0) / 2
        wanted += float(weight * ((own_T / own_T.norm() - their_T / their_T.norm()) ** 2).sum())
    assert float(attention_loss(own_NHT, their_NHT, weight_N)) == pytest.approx(wanted, rel=1e-5)
    assert float(attention_loss(own_NHT, own_NHT.flip(1))) == pytest.approx(0, abs=1e-12)


def plain_relation(own_TF: torch.Tensor, their_TF: torch.Tensor, row: int, seen: list[int], heads: int) -> torch.Tensor:
    """KL between the softmaxes over `seen` of scaled products with the vector at `row`, the mean over heads."""
    found = torch.zeros((), dtype=torch.float64)
    for head in range(heads):
        logs = []
        for states_TF in (own_TF, their_TF):
            size = states_TF.shape[1] // heads
            part_TE = states_TF[:, head * size : (head + 1) * size]
            logs.append(torch.log_softmax(torch.stack([part_TE[row] @ part_TE[t] for t in seen]) / size**0.5, -1))
        found = found + (logs[1].exp() * (logs[1] - logs[0])).sum()
    return found / heads


def test_relations_are_their_definition_and_so_is_their_gradient() -> None:
    own_BTF, their_BTF = normal(2, 4, 6).requires_grad_(), normal(2, 4, 12, seed=1)
    index_N, weight_N = torch.tensor([1, 3, 6]), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    seen = [[0, 1], [0, 1, 2, 3], [1, 2]]
    visible_NT = torch.tensor([[t in each for t in range(4)] for each in seen])
    products = [relations(states_BTF, index_N, 3) for states_BTF in (own_BTF, their_BTF)]
    found = relation_loss(*products, visible_NT, weight_N)
    wanted = torch.stack([
        weight * plain_relation(own_BTF[place // 4], their_BTF[place // 4], place % 4, each, 3)
        for place, each, weight in zip(index_N.tolist(), seen, weight_N, strict=True)
    ]).sum()  # fmt: skip
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    gradients = [torch.autograd.grad(loss, own_BTF, retain_graph=True)[0].double() for loss in (found, wanted)]
    assert torch.allclose(*gradients, atol=1e-6) and gradients[0].isfinite().all()
    assert float(relation_loss(products[0], products[0], visible_NT).detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "gptj", "bart", "t5", "gemma3"])
def test_values_and_weights_are_what_attention_adds_up(name: str) -> None:
    model = tiny.tiny_model(name)
    values, weights = (features_of(((0, 0),), match=match) for match in ("values", "attention"))
    module_of(model, tiny.tiny_model(name), weights)
    attention: Any = weights.spot(model, 0).module
    out = next(getattr(attention, key) for key in ("o_proj", "out_proj", "c_proj", "o") if hasattr(attention, key))
    read: list[torch.Tensor] = []
    out.register_forward_pre_hook(lambda _module, args: read.append(args[0]))
    family = family_of(model, pad_id=tiny.PAD)
    with torch.no_grad(), watched({"values": values.spot(model, 0), "weights": weights.spot(model, 0)}) as seen:
        family.rows(model, family.collate(make_examples(1)))
    groups = shared_heads(model, model, "values")
    values_HSE = seen["values"][0].unflatten(-1, (groups, -1)).transpose(0, 1)
    values_HSE = values_HSE.repeat_interleave(seen["weights"].shape[1] // groups, 0)
    assert torch.allclose((seen["weights"][0] @ values_HSE).transpose(0, 1).flatten(1), read[0][0], atol=1e-5)


ATTENTION: list[tuple[str, Feature, FeaturePlace]] = [
    ("llama", "values", "decoder"), ("llama", "attention", "decoder"), ("gpt2", "attention", "decoder"),
    ("phi3", "values", "decoder"), ("gemma3", "keys", "decoder"), ("gpt2", "embeddings", "decoder"),
    ("t5", "values", "decoder"), ("t5", "states", "encoder"), ("t5", "attention", "cross"),
    ("bart", "attention", "encoder"), ("bart", "values", "encoder"), ("bart", "queries", "cross"),
    ("bart", "values", "cross"), ("bart", "embeddings", "encoder"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "match", "place"), ATTENTION)
def test_a_batch_is_the_sum_over_its_examples(name: str, match: Feature, place: FeaturePlace) -> None:
    """So no padding counts, no example sees another, and micro-batches add up."""
    layers = (0, 0) if match == "embeddings" else (0, 1)
    models = tiny.tiny_model(name), tiny.tiny_model(name, seed=1)
    module = module_of(*models, features_of((layers,), match=match, place=place), mix=Mix(hard=0.0))
    module.training = True  # Without dropout.
    task = TextTask(module, make_examples(6))

    def value(indices: list[int]) -> float:
        batch = task.batch(indices)
        return float((module(batch).total - RowLoss.forward(module, batch).total).detach())

    each = [value([number]) for number in range(6)]
    assert min(each) >= 0 and max(each) > 0
    assert value([0, 1, 2, 3, 4, 5]) == pytest.approx(sum(each), rel=1e-3)


def test_positions_of_an_encoder_count_as_much_as_the_rows_of_their_example() -> None:
    model = tiny.tiny_model("t5")
    batch = family_of(model).collate([Encoded("a", (5, 6, 7), (8, 9)), Encoded("b", (5,), (6, 7, 8, tiny.END))])
    source, rows = source_positions(batch), target_positions(batch)
    assert source.index_P.tolist() == [0, 1, 2, 3]
    assert source.weight_P.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 4])
    assert source.visible_PT.tolist() == [[True] * 3] * 3 + [[True, False, False]]
    assert rows.visible_PT.sum(-1).tolist() == [1, 2, 1, 2, 3, 4]


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        models = (tiny.tiny_model("llama", seed=seed) for seed in (0, 1))
        features = [features_of(((0, 1), (1, 1)), match=match) for match in ("states", "attention", "values")]
        task = TextTask(module_of(*models, *features), make_examples(8))
        run(task, make_config({"steps": 2}, gradient_checkpointing=checkpointing), tmp_path / str(checkpointing))
        found.append(weights(task))
    assert distance(*found) < 1e-6


@pytest.mark.parametrize("name", ["llama", "t5", "gpt2"])
def test_an_adapter_is_watched_too(name: str) -> None:
    """Queries are seen behind a LoRA adapter, and draw it."""
    adapted = adapt(tiny.tiny_model(name), Adaptation(kind="lora"), seed=0)
    module = module_of(adapted, tiny.tiny_model(name, seed=1), features_of(((1, 1),), match="queries")).train()
    module.mix_at = Mix(hard=0.0)
    module(TextTask(module, make_examples(3)).batch([0, 1, 2])).total.backward()
    drawn = [key for key, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert any("lora_B" in key for key in drawn) and all("lora_" in key for key in drawn)


def test_heads_that_do_not_divide_are_named() -> None:
    models = (tiny.tiny_model("llama", seed=seed) for seed in (0, 1))
    module = module_of(*models, features_of(((1, 1),), match="values", heads=3))
    with pytest.raises(ConfigError, match=r"features.heads is 3, which does not divide the 16 channels of the values"):
        module.train()(TextTask(module, make_examples(2)).batch([0, 1]))


def test_other_heads_and_widths_learn_attention_of_a_teacher(tmp_path: Path) -> None:
    teacher = tiny.tiny_model("llama")
    smaller = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 4}
    torch.manual_seed(3)
    student = hf.LlamaForCausalLM(hf.LlamaConfig(**{**teacher.config.to_dict(), **smaller, "num_hidden_layers": 1}))
    features = [features_of(((0, 1),), match=match) for match in ("values", "queries", "attention")]
    module = module_of(student, teacher, *features, mix=Mix(soft=1e-9, hard=0.0, temperature=2.0))
    task = TextTask(module, make_examples(4), labels={2.0: uniform_labels})
    reports = run(task, make_config({"steps": 40}, batch_tokens=500, learning_rate=1e-2), tmp_path)
    assert reports[-1].loss < 0.6 * reports[0].loss
    assert [len(each) for each in module.maps] == [0, 0, 0]  # type: ignore[arg-type]


def test_pairs_follow_what_was_kept() -> None:
    assert pairs_of(3, 6, (0, 2, 5)) == ((0, 1), (1, 4), (2, 5))
    assert pairs_of(3, 6) == ((0, 1), (1, 3), (2, 5))
    assert pairs_of(2, 2) == ((0, 0), (1, 1))


@pytest.mark.parametrize("name", ["llama", "t5", "gpt2", "gemma3"])
@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_a_student_that_is_its_teacher_has_nothing_to_match(name: str, kind: Any) -> None:
    model = tiny.tiny_model(name)
    module = module_of(tiny.tiny_model(name), model, features_of(pairs_of(2, 2), kind=kind))
    batch = TextTask(module, make_examples(5)).batch([0, 1, 2, 3])
    module.eval()
    plain = module(batch)
    module.training = True  # Without dropout.
    assert float(module(batch).total) == pytest.approx(float(plain.total), abs=1e-3)


def test_the_total_is_plain_loss_and_weighted_mean_over_pairs() -> None:
    teacher, student = tiny.tiny_model("llama"), tiny.tiny_model("llama", seed=1)
    found = []
    for weight in (0.0, 1.0, 2.5):
        module = module_of(student, teacher, features_of(pairs_of(2, 2), weight=Schedule.constant(weight)))
        found.append(float(module.train()(TextTask(module, make_examples(4)).batch([0, 1, 2])).total))
    assert found[1] > found[0]
    assert found[2] - found[0] == pytest.approx(2.5 * (found[1] - found[0]), rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_training_draws_hidden_states_together_and_leaves_the_teacher_alone(name: str, tmp_path: Path) -> None:
    teacher = tiny.tiny_model(name)
    student = keep_layers(teacher, [0])
    module = module_of(student, teacher, features_of(pairs_of(1, 2, (0,))), mix=Mix(soft=0.0, hard=0.0))
    task = TextTask(module, make_examples(4), labels={1.0: uniform_labels})
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    reports = run(task, make_config({"steps": 30}, batch_tokens=500, learning_rate=1e-2), tmp_path)
    assert reports[-1].loss < 0.6 * reports[0].loss
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())
    assert not any("teacher" in key for key in module.state_dict())


def test_other_widths_are_mapped_and_resume_as_uninterrupted(tmp_path: Path) -> None:
    teacher = tiny.tiny_model("llama")

    def task() -> TextTask:
        torch.manual_seed(5)
        config = hf.LlamaConfig(
            **{**teacher.config.to_dict(), "hidden_size": 16, "head_dim": 4, "num_hidden_layers": 1}
        )
        return TextTask(module_of(hf.LlamaForCausalLM(config), teacher, features_of(pairs_of(1, 2))), make_examples(8))

    config = make_config({"steps": 4}, checkpoint_steps=1)
    whole = task()
    assert [tuple(each.weight.shape) for each in whole.module.maps[0]] == [(32, 16)]  # type: ignore[index]
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
        module_of(tiny.tiny_model("llama"), model, features_of(((0, 7),)))


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


FROM_FEATURES: dict[str, Any] = {
    "teacher": {"teach": None}, "labels": {"targets": "gold"},
    "distil": {"alpha": 0, "features": {"weight": 2.0}, "without_teacher": False},
}  # fmt: skip


def test_features_and_fewer_tokens_are_refused(tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=20, **FROM_FEATURES)
    with pytest.raises(ConfigError, match=r"leave student\.vocabulary or distil\.features out"):
        read_recipe(folder / "recipe.yaml", ("student.vocabulary={tokens: used}",))


@pytest.mark.timeout(300)
def test_a_student_of_its_own_needs_its_teachers_tokens_for_features(tmp_path: Path) -> None:
    """Also without stored labels, and where it has them all under other numbers, as one with fewer tokens has."""
    folder = project(tmp_path / "project", "llama", pairs=20, **FROM_FEATURES)
    state = json.loads(tiny.tiny_tokenizer("decoder-only").backend_tokenizer.to_str())
    numbers = state["model"]["vocab"]
    last = max(numbers.values())
    state["model"]["vocab"] = {
        token: number if number < tiny.FIRST_BYTE else tiny.FIRST_BYTE + last - number
        for token, number in numbers.items()
    }
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), pad_token="<pad>", eos_token="</s>", bos_token="<s>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    for each in (tiny.tiny_model("llama"), tokenizer):
        each.save_pretrained(tmp_path / "other")
    own = ("--set", f"student={{model: {tmp_path / 'other'}}}")
    ended = instil("distil", "recipe.yaml", *own, cwd=folder)
    assert ended.code == 2 and "distil.features: the student has tokens that are others" in ended.said, ended.err


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
    wrong = instil(
        "distil", "recipe.yaml", "--set", f"labels.others=[{{store: {store}, weight: {{x: 0.5}}}}]", cwd=tmp_path
    )
    assert wrong.code == 2 and "labels.others has a weight for task 'x'; the tasks are main" in wrong.err


def test_features_go_with_what_the_student_writes(tmp_path: Path) -> None:
    """Features add the same, whatever else is learned of these texts."""
    teacher, student = tiny.tiny_model("llama"), tiny.tiny_model("llama", seed=1)
    module = module_of(student, teacher, features_of(pairs_of(2, 2)), mix=Mix(soft=1.0, hard=0.0))
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
