"""Students with fewer layers: the same model where all are kept, a plain transformers model where some are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import tiny
from instil.core.errors import ModelError
from instil.data.tokens import Encoded
from instil.models.family import family_of
from instil.models.layers import Side, only_layers, stack_of
from instil.models.students.depth import evenly_spaced, keep_layers
from instil.models.students.influence import block_influence, most_influential

ALL = (*tiny.ENCODER_DECODER, *tiny.DECODER_ONLY)
LAYERS = 4
EXAMPLES = [
    Encoded("a", (9, 4, 250, 17, 33, 8, 90, tiny.END), (5, 66, 7, 12, tiny.END)),
    Encoded("b", (12, 13, 77, tiny.END), (88, tiny.END)),
]


def teacher_of(name: str, layers: int = LAYERS) -> Any:
    """The tiny model `name` with `layers` layers on each side."""
    shallow = tiny.tiny_model(name)
    config = shallow.config
    for side in sides(shallow):
        setattr(config, stack_of(shallow, side).config_key, layers)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = [kinds[index % len(kinds)] for index in range(layers)]
    torch.manual_seed(1)
    return tiny.scatter(type(shallow)(config)).eval()


def sides(model: Any) -> tuple[Side, ...]:
    return ("encoder", "decoder") if model.config.is_encoder_decoder else ("decoder",)


def logits(model: Any) -> Tensor:
    family = family_of(model, pad_id=tiny.PAD)
    with torch.no_grad():
        rows = family.rows(model, family.collate(EXAMPLES))
        return rows.head.logits(rows.hidden_ND)


def weights(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_weights(model: Any, before: dict[str, Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], tensor) for name, tensor in before.items())


def pass_back(model: Any) -> None:
    """Gradients of something that depends on every logit."""
    family = family_of(model, pad_id=tiny.PAD)
    rows = family.rows(model, family.collate(EXAMPLES))
    rows.head.logits(rows.hidden_ND).logsumexp(-1).sum().backward()


def require_it_works_alone(student: Any, teacher: Any, folder: Path) -> None:
    """It generates, and what plain transformers reads back is of the teacher's class and gives the same logits."""
    written = student.generate(torch.tensor([[9, 4, 33]]), max_new_tokens=4, do_sample=False, pad_token_id=tiny.PAD)
    assert written.shape[1] > 1
    student.save_pretrained(folder)
    auto: Any = hf.AutoModelForSeq2SeqLM if teacher.config.is_encoder_decoder else hf.AutoModelForCausalLM
    again = auto.from_pretrained(folder).eval()
    assert type(again) is type(teacher)
    assert torch.equal(logits(again), logits(student))


@pytest.mark.parametrize("name", ALL)
def test_keeping_all_layers_gives_the_same_model(name: str) -> None:
    teacher = teacher_of(name)
    student = keep_layers(teacher, range(LAYERS))
    assert type(student) is type(teacher) and student is not teacher
    assert (logits(student) - logits(teacher)).abs().max() <= 1e-6
    shared = {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not shared & {parameter.data_ptr() for parameter in student.parameters()}


@pytest.mark.parametrize("kept", [(0, 3), (2,), (1, 2, 3)])
@pytest.mark.parametrize("name", ALL)
def test_a_shorter_student_is_a_plain_model(name: str, kept: Sequence[int], tmp_path: Path) -> None:
    """It learns, generates, and comes back from disk through the plain auto classes with the same logits."""
    teacher = teacher_of(name)
    before = weights(teacher)
    student: Any = keep_layers(teacher, kept)
    for side in sides(teacher):
        student = keep_layers(student, kept, side=side) if side == "encoder" else student
        assert len(stack_of(student, side).layers) == len(kept)
    pass_back(student)
    assert all(parameter.grad is not None for parameter in stack_of(student).layers.parameters())
    require_it_works_alone(student, teacher, tmp_path)
    assert same_weights(teacher, before)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bart", "t5"])
def test_each_kept_layer_has_its_own_weights(name: str) -> None:
    teacher = teacher_of(name)
    student = keep_layers(teacher, (1, 3))
    for layer, index in zip(stack_of(student).layers, (1, 3), strict=True):
        original = stack_of(teacher).layers[index].state_dict()
        assert all(torch.equal(tensor, original[key]) for key, tensor in layer.state_dict().items() if key in original)


def test_the_kind_of_attention_travels_with_its_layer(tmp_path: Path) -> None:
    teacher = teacher_of("gemma3")
    assert teacher.config.layer_types == ["sliding_attention", "full_attention"] * 2
    student: Any = keep_layers(teacher, (1, 2, 3))
    assert student.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert teacher.config.layer_types == ["sliding_attention", "full_attention"] * 2
    student.save_pretrained(tmp_path)
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.layer_types == student.config.layer_types
    assert [layer.self_attn.is_sliding for layer in again.model.layers] == [False, True, False]


def test_layers_without_positions_travel_too() -> None:
    """SmolLM3 leaves rotary positions out of every fourth layer."""
    teacher = teacher_of("smollm3", layers=2)
    config = teacher.config
    config.num_hidden_layers, config.layer_types, config.no_rope_layers = 4, ["full_attention"] * 4, [1, 1, 1, 0]
    teacher = tiny.scatter(type(teacher)(config)).eval()
    student: Any = keep_layers(teacher, (0, 3))
    assert student.config.no_rope_layers == [1, 0]
    assert [layer.self_attn.use_rope for layer in student.model.layers] == [1, 0]


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_t5_keeps_its_position_bias_without_its_first_layer(side: Side) -> None:
    teacher = teacher_of("t5")
    student: Any = keep_layers(teacher, (2, 3), side=side)

    def bias(model: Any) -> Tensor:
        return stack_of(model, side).layers[0].layer[0].SelfAttention.relative_attention_bias.weight

    assert torch.equal(bias(student), bias(teacher))


def test_umt5_keeps_each_layers_own_position_bias() -> None:
    teacher = teacher_of("umt5", layers=3)
    student: Any = keep_layers(teacher, (1, 2))
    for layer, index in zip(student.decoder.block, (1, 2), strict=True):
        own = teacher.decoder.block[index].layer[0].SelfAttention.relative_attention_bias.weight
        assert torch.equal(layer.layer[0].SelfAttention.relative_attention_bias.weight, own)


@pytest.mark.parametrize("name", ["t5", "bart", "marian", "pegasus"])
def test_the_encoder_side_leaves_the_decoder_alone(name: str) -> None:
    teacher = teacher_of(name)
    student = keep_layers(teacher, (0, 2), side="encoder")
    assert len(stack_of(student, "encoder").layers) == 2
    assert len(stack_of(student, "decoder").layers) == LAYERS
    assert logits(student).shape == logits(teacher).shape
    assert not torch.equal(logits(student), logits(teacher))


def test_a_decoder_only_model_has_no_encoder_to_cut() -> None:
    with pytest.raises(ModelError, match="has no encoder"):
        keep_layers(tiny.tiny_model("llama"), (0,), side="encoder")


@pytest.mark.parametrize("kept", [(), (1, 0), (0, 0), (0, 2), (-1, 0), (5,)])
def test_wrong_layer_lists_are_refused(kept: Sequence[int]) -> None:
    with pytest.raises(ModelError, match="are not rising numbers from 0 to 1"):
        keep_layers(tiny.tiny_model("llama"), kept)


def test_dtype_and_settings_of_the_teacher_are_kept() -> None:
    teacher = teacher_of("llama").to(torch.bfloat16)
    teacher.generation_config.max_new_tokens = 7
    student: Any = keep_layers(teacher, (0,))
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}
    assert student.generation_config.max_new_tokens == 7 and not student.training


@pytest.mark.parametrize("name", ["t5", "pegasus", "llama", "gemma3", "qwen3", "phi3", "gptj", "gpt2"])
def test_a_layer_that_does_nothing_has_no_influence_and_goes_first(name: str) -> None:
    teacher = teacher_of(name)
    family = family_of(teacher, pad_id=tiny.PAD)
    for side in sides(teacher):
        with torch.no_grad():
            for parameter in stack_of(teacher, side).layers[2].parameters():
                parameter.zero_()
        influence = block_influence(teacher, family, EXAMPLES, side=side)
        assert len(influence) == LAYERS and all(0 <= value <= 2 for value in influence)
        assert influence[2] == pytest.approx(0, abs=1e-6) and min(influence[:2] + influence[3:]) > 1e-4
        assert most_influential(influence, LAYERS - 1) == (0, 1, 3)
        # A layer that does nothing can be dropped without a trace.
        student = keep_layers(teacher, (0, 1, 3), side=side)
        if name != "gemma3":
            assert (logits(student) - logits(teacher)).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_influence_is_the_cosine_between_a_layers_sides(name: str) -> None:
    """Against the hidden states that the model itself gives out."""
    teacher = teacher_of(name)
    family = family_of(teacher, pad_id=tiny.PAD)
    sums, tokens = torch.zeros(LAYERS - 1, dtype=torch.float64), 0
    for example in EXAMPLES:
        batch = family.collate([example])
        with torch.no_grad():
            out = teacher(**batch.inputs, output_hidden_states=True)
        states = out.decoder_hidden_states if teacher.config.is_encoder_decoder else out.hidden_states
        tokens += states[0].shape[1]
        for layer in range(LAYERS - 1):  # After the last one stands the final norm, in some models.
            sums[layer] += (1 - torch.cosine_similarity(states[layer], states[layer + 1], dim=-1)).sum().double()
    found = block_influence(teacher, family, EXAMPLES)
    assert found[:-1] == pytest.approx((sums / tokens).tolist(), abs=1e-5)


def test_measuring_leaves_the_teacher_as_it_was() -> None:
    teacher = teacher_of("t5")
    teacher.train()
    before = weights(teacher)
    family = family_of(teacher, pad_id=tiny.PAD)
    block_influence(teacher, family, EXAMPLES)
    assert teacher.training and same_weights(teacher, before)
    layers = stack_of(teacher).layers
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    rows = family.rows(teacher, family.collate(EXAMPLES))
    rows.hidden_ND.sum().backward()
    assert next(layers.parameters()).grad is not None


def test_hooks_go_even_when_the_model_fails() -> None:
    teacher = teacher_of("llama")
    family = family_of(teacher, pad_id=tiny.PAD)
    with pytest.raises(IndexError):
        block_influence(teacher, family, [Encoded("out of the vocabulary", (10_000,), (5,))])
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in stack_of(teacher).layers)
    assert not teacher.training


def test_influence_needs_examples() -> None:
    teacher = tiny.tiny_model("llama")
    with pytest.raises(ModelError, match="at least one example"):
        block_influence(teacher, family_of(teacher), [])


def test_influence_does_not_depend_on_order() -> None:
    teacher = teacher_of("llama")
    family = family_of(teacher, pad_id=tiny.PAD)
    one, other = block_influence(teacher, family, EXAMPLES), block_influence(teacher, family, EXAMPLES[::-1])
    assert one == pytest.approx(other, abs=1e-9)


def test_evenly_spaced() -> None:
    assert evenly_spaced(30, 10) == (0, 3, 6, 10, 13, 16, 19, 23, 26, 29)
    assert evenly_spaced(4, 1) == (0,)
    assert evenly_spaced(4, 4) == (0, 1, 2, 3)
    for count in range(1, 40):
        for keep in range(1, count + 1):
            kept = evenly_spaced(count, keep)
            assert len(set(kept)) == keep and list(kept) == sorted(kept) and kept[0] == 0
            assert keep == 1 or kept[-1] == count - 1


def test_most_influential() -> None:
    assert most_influential([0.5, 0.1, 0.9, 0.1], 3) == (0, 1, 2)
    assert most_influential([0.2, 0.2, 0.2], 1) == (0,)


@pytest.mark.parametrize("keep", [0, 5, -1])
def test_impossible_numbers_of_layers_are_refused(keep: int) -> None:
    with pytest.raises(ModelError, match=f"cannot keep {keep} of 4 layers; give 1 to 4"):
        evenly_spaced(4, keep)
    with pytest.raises(ModelError, match=f"cannot keep {keep} of 4 layers"):
        most_influential([0.1] * 4, keep)


@pytest.mark.parametrize("name", ALL)
def test_running_with_only_some_layers_is_running_the_shorter_model(name: str) -> None:
    """Also what the config says of each layer; afterwards, or after an error, the model is whole again."""
    model, kept = teacher_of(name), (0, 2, 3)
    whole, before = logits(model), weights(model)
    for side in sides(model):
        with only_layers(model, kept, side=side):
            part = logits(model)
        assert torch.allclose(part, logits(keep_layers(model, kept, side=side)), atol=1e-6)
        assert not torch.allclose(part, whole, atol=1e-3)
        with pytest.raises(KeyError), only_layers(model, kept, side=side):
            raise KeyError
        assert torch.equal(logits(model), whole) and same_weights(model, before)
        assert model.config.to_dict() == teacher_of(name).config.to_dict()
