"""Greedy depth: what it measures is what the cut model does, and the layer that does least goes first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

import tiny
from instil.core.errors import ModelError
from instil.models.family import family_of
from instil.models.layers import Side, only_layers, stack_of
from instil.models.students.depth import choose_layers, keep_layers
from instil.models.students.greedy import remove_greedily
from test_students import EXAMPLES, LAYERS, logits, same_weights, sides, teacher_of, weights


def divergence(teacher: Any, student: Any) -> float:
    """KL(teacher || student) in nats a row, from the logits of the whole models."""
    theirs, own = logits(teacher).log_softmax(-1), logits(student).log_softmax(-1)
    return float((theirs.exp() * (theirs - own)).sum(-1).mean())


def exhaustive(teacher: Any, number: int, side: Side) -> list[tuple[int, float]]:
    """The same choice, every candidate built and tried each time."""
    left, removed = list(range(LAYERS)), []
    for _ in range(number):
        tried = {n: divergence(teacher, keep_layers(teacher, [m for m in left if m != n], side=side)) for n in left}
        removed.append(min(tried.items(), key=lambda item: item[1]))
        left.remove(removed[-1][0])
    return removed


@pytest.mark.parametrize("name", ["t5", "bart", "llama", "gemma3", "phi3", "gpt2"])
def test_it_is_the_exhaustive_search(name: str) -> None:
    """In models where no layer's removal hurts less when others are gone."""
    teacher = teacher_of(name)
    for side in sides(teacher):
        found = remove_greedily(teacher, family_of(teacher, pad_id=tiny.PAD), EXAMPLES, LAYERS - 1, side=side)
        expected = exhaustive(teacher, LAYERS - 1, side)
        assert [removal.layer for removal in found] == [layer for layer, _ in expected]
        assert [removal.loss for removal in found] == pytest.approx([loss for _, loss in expected], rel=1e-3)


@pytest.mark.parametrize("name", ["gptj", "qwen3", "marian"])
def test_its_losses_are_those_of_the_students_then_built(name: str) -> None:
    teacher = teacher_of(name)
    before = weights(teacher)
    for side in sides(teacher):
        left = list(range(LAYERS))
        for removal in remove_greedily(teacher, family_of(teacher), EXAMPLES, LAYERS - 1, side=side):
            left.remove(removal.layer)
            assert removal.loss == pytest.approx(divergence(teacher, keep_layers(teacher, left, side=side)), rel=1e-3)
    assert same_weights(teacher, before)


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("name", ["t5", "pegasus", "llama", "gemma3", "qwen3", "phi3", "gptj", "gpt2"])
def test_a_layer_that_does_nothing_goes_first(name: str, place: int) -> None:
    teacher = teacher_of(name)
    for side in sides(teacher):
        if name == "t5" and place == 0:
            continue  # It holds the position bias of the others.
        with torch.no_grad():
            for parameter in stack_of(teacher, side).layers[place].parameters():
                parameter.zero_()
        report = choose_layers(
            teacher, family_of(teacher, pad_id=tiny.PAD), EXAMPLES, LAYERS - 2, choice="greedy", side=side
        )
        assert report.removed[0].layer == place
        assert report.removed[0].loss <= 1e-6 < report.removed[1].loss
        assert place not in report.kept and len(report.kept) == LAYERS - 2


def test_t5_runs_without_its_first_layer() -> None:
    teacher = teacher_of("t5")
    for side in sides(teacher):
        with only_layers(teacher, (1, 3), side=side):
            part = logits(teacher)
        assert torch.allclose(part, logits(keep_layers(teacher, (1, 3), side=side)), atol=1e-6)
    assert torch.equal(logits(teacher), logits(teacher_of("t5")))


def test_progress_is_told() -> None:
    teacher, heard = teacher_of("llama"), []
    remove_greedily(teacher, family_of(teacher), EXAMPLES, 2, advance=lambda done, remark: heard.append((done, remark)))
    assert [done for done, _ in heard] == [1, 2] and all("nats" in remark for _, remark in heard)


def test_it_needs_examples_and_a_possible_number() -> None:
    teacher = tiny.tiny_model("llama")
    family = family_of(teacher)
    with pytest.raises(ModelError, match="at least one example"):
        remove_greedily(teacher, family, [], 1)
    with pytest.raises(ModelError, match="cannot keep 9 of 2 layers"):
        choose_layers(teacher, family, EXAMPLES, 9, choice="greedy")


SMALL = {"vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
UNNAMED = {
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SMALL, intermediate_size=48)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=264, hidden_size=32, n_layer=4, n_head=4)),
    "falcon": lambda: hf.FalconForCausalLM(hf.FalconConfig(**SMALL)),
    "mpt": lambda: hf.MptForCausalLM(hf.MptConfig(vocab_size=264, d_model=32, n_layers=4, n_heads=4)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**SMALL, intermediate_size=48)),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_layers_are_found_by_their_number_whatever_their_name(name: str) -> None:
    torch.manual_seed(0)
    teacher = tiny.scatter(UNNAMED[name]()).eval()
    assert torch.allclose(logits(keep_layers(teacher, range(4))), logits(teacher), atol=1e-6)
    with only_layers(teacher, (0, 3)):
        part = logits(teacher)
    assert torch.allclose(part, logits(keep_layers(teacher, (0, 3))), atol=1e-6)


def test_layers_that_depend_on_their_number_are_refused() -> None:
    """Every second layer of this model has experts, and nothing in its config travels with a layer."""
    config = hf.Qwen3MoeConfig(
        **SMALL, intermediate_size=48, moe_intermediate_size=16, num_experts=4, decoder_sparse_step=2, head_dim=8
    )
    teacher = tiny.scatter(hf.Qwen3MoeForCausalLM(config)).eval()
    with pytest.raises(ModelError, match=r"\(qwen3_moe\) builds its layers by their number \(mlp.class was"):
        keep_layers(teacher, (0, 2))


def test_a_config_that_would_not_load_again_is_refused() -> None:
    """GPT-Neo's config says in words of its own which layers look far."""
    config = hf.GPTNeoConfig(
        vocab_size=264, hidden_size=32, num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]],
        **tiny.SPECIAL,
    )  # fmt: skip
    teacher = tiny.scatter(hf.GPTNeoForCausalLM(config)).eval()
    with pytest.raises(ModelError, match=r"GPTNeoForCausalLM \(gpt_neo\) cannot be had with num_hidden_layers 2"):
        keep_layers(teacher, (0, 3))


def test_layers_that_are_not_found_are_refused() -> None:
    teacher = tiny.tiny_model("llama")
    teacher.config.num_hidden_layers = 3
    with pytest.raises(ModelError, match=r"LlamaForCausalLM \(llama\): its decoder layers were not found"):
        stack_of(teacher)
