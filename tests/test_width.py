"""Students with smaller widths: what does least goes first, what is kept works like the teacher's, for each family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from instil.core.errors import ModelError
from instil.models.family import family_of
from instil.models.students import reproject
from instil.models.students.anatomy import ANATOMIES, anatomy_of
from instil.models.students.importance import measure_importance
from instil.models.students.plan import Widths
from instil.models.students.sizes import sizes_of
from instil.models.students.width import cut_width
from test_students import EXAMPLES, logits, pass_back, require_it_works_alone, same_weights, weights

FAMILIES = (*tiny.ENCODER_DECODER, *tiny.DECODER_ONLY, "mt5", "umt5", "mistral", "qwen2", "smollm3", "gemma2")
SHARED = ("bart", "marian", "pegasus", "gpt2", "gptj")
"""Heads share the hidden size."""


def cut(teacher: Any, *, mend: bool = True, **widths: int) -> Any:
    return cut_width(teacher, Widths(**widths), family_of(teacher, pad_id=tiny.PAD), EXAMPLES, mend=mend)[0]


def plan_of(name: str, kind: str) -> dict[str, int]:
    if name in SHARED and kind in ("hidden", "heads", "all"):
        return {"hidden": 16, "heads": 2} | ({"feed_forward": 20} if kind == "all" else {})
    plans = {"hidden": {"hidden": 24}, "feed_forward": {"feed_forward": 20}, "heads": {"heads": 2}}
    return {key: value for plan in plans.values() for key, value in plan.items()} if kind == "all" else plans[kind]


@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_all_widths_gives_the_same_model(name: str) -> None:
    teacher = tiny.tiny_model(name)
    sizes = sizes_of(teacher.config, anatomy_of(teacher))
    student, report = cut_width(
        teacher, Widths(hidden=sizes.hidden, feed_forward=sizes.feed_forward, heads=sizes.heads),
        family_of(teacher, pad_id=tiny.PAD), EXAMPLES,
    )  # fmt: skip
    assert type(student) is type(teacher) and student is not teacher
    assert (logits(student) - logits(teacher)).abs().max() <= 1e-6
    assert report.student == report.teacher == sizes
    assert (report.kept_hidden, report.kept_units, report.kept_heads) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("kind", ["hidden", "feed_forward", "heads", "all"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrower_student_is_a_plain_model(name: str, kind: str, tmp_path: Path) -> None:
    """It learns, generates, and comes back from disk through the plain auto classes with the same logits."""
    teacher = tiny.tiny_model(name)
    before = weights(teacher)
    plan = plan_of(name, kind)
    student = cut(teacher, **plan)
    sizes = sizes_of(student.config, anatomy_of(student))
    assert {key: getattr(sizes, key) for key in plan} == plan
    assert student.num_parameters() < teacher.num_parameters()
    pass_back(student)
    assert all(parameter.grad is not None for parameter in student.parameters() if parameter.requires_grad)
    require_it_works_alone(student, teacher, tmp_path)
    assert same_weights(teacher, before)


def silence(teacher: Any, dead: Callable[[str, int], Tensor | None]) -> None:
    """Zeroes what `dead(word, length)` says of each axis of each weight, so that it does nothing."""
    anatomy = anatomy_of(teacher)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            for axis, words in enumerate(anatomy.axes_of(name)):
                each = words.split("+")
                for part, word in zip(parameter.chunk(len(each), axis), each, strict=True):
                    if (index := dead(word, part.shape[axis])) is not None:
                        part.index_fill_(axis, index, -anatomy.gain if parameter.ndim == 1 else 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_dead_units_go_first_and_leave_no_trace(name: str) -> None:
    teacher = tiny.tiny_model(name)
    units = sizes_of(teacher.config, anatomy_of(teacher)).feed_forward
    dead = torch.arange(0, units, 3)
    silence(teacher, lambda word, _: dead if word == "units" else None)
    student = cut(teacher, feed_forward=units - len(dead))
    assert (logits(student) - logits(teacher)).abs().max() <= 1e-5


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in SHARED])
def test_dead_heads_go_first_and_leave_no_trace(name: str) -> None:
    """Also as whole groups of key-value heads: the second of two, or every second head."""
    teacher = tiny.tiny_model(name)
    sizes = sizes_of(teacher.config, anatomy_of(teacher))
    dead = torch.tensor([2, 3] if sizes.key_value_heads == 2 else [0, 2])
    channels = (dead[:, None] * sizes.head_size + torch.arange(sizes.head_size)).flatten()
    anatomy = anatomy_of(teacher)
    with torch.no_grad():
        for parameter_name, parameter in teacher.named_parameters():
            if anatomy.axes_of(parameter_name)[1:] == ["query"]:
                parameter.index_fill_(1, channels, 0)
    student = cut(teacher, heads=2)
    assert sizes_of(student.config, anatomy).key_value_heads == (1 if sizes.key_value_heads == 2 else 2)
    assert (logits(student) - logits(teacher)).abs().max() <= 1e-5


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in SHARED])
def test_dead_hidden_channels_go_first_and_leave_no_trace(name: str) -> None:
    """Norms then divide by fewer channels, embeddings and logits are multiplied by another factor: all made up for."""
    teacher = tiny.tiny_model(name)
    dead = torch.arange(1, 32, 4)
    silence(teacher, lambda word, _: dead if word == "hidden" else None)
    student = cut(teacher, hidden=24)
    assert (logits(student) - logits(teacher)).abs().max() <= 1e-3 * logits(teacher).abs().max()


@pytest.mark.parametrize("name", SHARED)
def test_dead_channels_with_dead_heads_go_first(name: str) -> None:
    teacher = tiny.tiny_model(name)
    dead, heads = torch.arange(1, 32, 2), torch.arange(8, 24)
    silence(teacher, lambda word, _: dead if word == "hidden" else heads if word == "query" else None)
    student = cut(teacher, hidden=16)
    assert sizes_of(student.config, anatomy_of(student)).heads == 2
    kept = student.get_input_embeddings().weight[:, 0]
    assert kept.abs().sum() > 0 and torch.equal(kept != 0, teacher.get_input_embeddings().weight[:, 0] != 0)
    importance = measure_importance(student, family_of(student), EXAMPLES, anatomy_of(student), hidden=16, head_size=8)
    assert all((score > 1e-3 * score.max()).all() for score in importance.heads.values())


@pytest.mark.parametrize("name", ["llama", "phi3", "gemma2"])
def test_key_value_groups_go_whole_or_lose_heads_each(name: str) -> None:
    """Four heads share two key-value heads. The dead one is the first of the second group."""
    teacher = tiny.tiny_model(name)
    with torch.no_grad():
        for layer in teacher.model.layers:
            layer.self_attn.o_proj.weight[:, 16:24] = 0
            layer.self_attn.o_proj.weight[:, 0:8] *= 1e-3
    thinned = cut(teacher, heads=2, key_value_heads=2, mend=False)
    assert sizes_of(thinned.config, anatomy_of(teacher)).key_value_heads == 2
    for layer, original in zip(thinned.model.layers, teacher.model.layers, strict=True):
        kept = original.self_attn.o_proj.weight[:, [*range(8, 16), *range(24, 32)]]
        assert torch.equal(layer.self_attn.o_proj.weight, kept)
    assert (logits(thinned) - logits(teacher)).abs().max() <= 0.1
    halved = cut(teacher, key_value_heads=1)
    assert sizes_of(halved.config, anatomy_of(teacher)).heads == 2


def twin(teacher: Any) -> None:
    """Makes every second feed-forward unit read what the one before it reads, and speak more softly."""
    anatomy = anatomy_of(teacher)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            axes = anatomy.axes_of(name)
            for axis, words in enumerate(axes):
                if len(axes) == 2 and axis == (0 if anatomy.transposed else 1) and words == "units":
                    parameter.index_copy_(axis, ODD, 0.03 * parameter.index_select(axis, ODD))
                elif "units" in words:
                    for part in parameter.chunk(words.count("+") + 1, axis):
                        part.index_copy_(axis, ODD, part.index_select(axis, ODD - 1))


ODD = torch.arange(1, 48, 2)


@pytest.mark.parametrize("name", ["t5", "t5_gated", "bart", "llama", "gemma3", "phi3", "gpt2", "gptj"])
def test_what_is_left_takes_over_from_what_went(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units have twins, so that half of them can go without loss; a layer at a time gives the same."""
    monkeypatch.setattr(reproject, "_RIDGE", 1e-6)
    teacher = tiny.tiny_model(name)
    if sizes_of(teacher.config, anatomy_of(teacher)).feed_forward > 48:
        teacher.config.n_inner = 48
        teacher = tiny.scatter(type(teacher)(teacher.config)).eval()
    twin(teacher)
    plain, mended = cut(teacher, feed_forward=24, mend=False), cut(teacher, feed_forward=24)
    apart = [float((logits(student) - logits(teacher)).abs().max()) for student in (plain, mended)]
    assert apart[1] <= 0.05 * apart[0]
    monkeypatch.setattr(reproject, "_NUMBERS_TOGETHER", 1)
    assert (logits(cut(teacher, feed_forward=24)) - logits(mended)).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["t5", "llama", "phi3", "gemma2", "qwen2"])
def test_mending_heads_brings_the_student_closer(name: str) -> None:
    teacher = tiny.tiny_model(name)
    apart = [(logits(cut(teacher, heads=2, mend=mend)) - logits(teacher)).square().mean() for mend in (False, True)]
    assert apart[1] < apart[0]


def test_t5_keeps_the_same_heads_in_all_layers_of_a_stack() -> None:
    """They share one position bias; cross-attention has none and is free."""
    teacher = tiny.tiny_model("t5")
    with torch.no_grad():
        for layer, dead in ((0, slice(0, 8)), (1, slice(8, 16))):
            teacher.encoder.block[layer].layer[0].SelfAttention.o.weight[:, dead] = 0
            teacher.decoder.block[layer].layer[1].EncDecAttention.o.weight[:, dead] = 0
    student = cut(teacher, heads=3, mend=False)

    def kept(module: Any, original: Any) -> list[int]:
        pairs = [(new, old) for new in range(3) for old in range(4)]
        own, theirs = module.weight.unflatten(1, (3, 8)), original.weight.unflatten(1, (4, 8))
        return [old for new, old in pairs if torch.equal(own[:, new], theirs[:, old])]

    encoders = zip(student.encoder.block, teacher.encoder.block, strict=True)
    own = [kept(new.layer[0].SelfAttention.o, old.layer[0].SelfAttention.o) for new, old in encoders]
    assert own[0] == own[1] and len(own[0]) == 3
    bias, original = (m.encoder.block[0].layer[0].SelfAttention.relative_attention_bias for m in (student, teacher))
    assert torch.equal(bias.weight, original.weight[:, own[0]])
    decoders = zip(student.decoder.block, teacher.decoder.block, strict=True)
    crossed = [kept(new.layer[1].EncDecAttention.o, old.layer[1].EncDecAttention.o) for new, old in decoders]
    assert crossed == [[1, 2, 3], [0, 2, 3]]


def test_marians_channels_keep_about_their_frequency() -> None:
    """Its positions are computed anew: channel i of the student gets what channel 2i or 2i + 1 of the teacher had."""
    teacher = tiny.tiny_model("marian")
    student = cut(teacher, hidden=16)
    table, original = student.get_input_embeddings().weight.detach(), teacher.get_input_embeddings().weight.detach()
    ratio = (teacher.config.d_model / student.config.d_model) ** 0.5 if teacher.config.scale_embedding else 1.0
    for new in range(16):
        assert any(torch.allclose(table[:, new], ratio * original[:, old]) for old in (2 * new, 2 * new + 1))


@pytest.mark.parametrize(
    ("name", "plan", "message"),
    [
        ("llama", {"hidden": 99}, "width: hidden 99 of 32; give 1 to 32"),
        ("llama", {"feed_forward": 0}, "width: feed_forward 0 of 48; give 1 to 48"),
        ("llama", {"heads": 3}, "width: 3 heads cannot share 2 key-value heads evenly"),
        ("llama", {"hidden": 30}, "hidden size .30. is not a multiple of the number of attention heads"),
        ("bart", {"hidden": 20}, "width: hidden 20 is not 4 heads of 8 channels"),
        ("gpt2", {"heads": 2}, "width: hidden 32 is not 2 heads of 8 channels"),
        ("opt", {"hidden": 16}, r"OPTForCausalLM \(opt\): instil does not know which of its weights belong together"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(name: str, plan: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        cut(tiny.tiny_model(name), **plan)
    assert "\n" not in str(caught.value)


def test_it_needs_examples() -> None:
    teacher = tiny.tiny_model("llama")
    with pytest.raises(ModelError, match="at least one example"):
        cut_width(teacher, Widths(heads=2), family_of(teacher), [])


def test_precision_and_settings_of_the_teacher_are_kept() -> None:
    teacher = tiny.tiny_model("gemma3").to(torch.bfloat16)
    teacher.generation_config.max_new_tokens = 7
    student = cut(teacher, hidden=24)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}
    assert student.generation_config.max_new_tokens == 7 and not student.training
    assert student.config.query_pre_attn_scalar == teacher.config.query_pre_attn_scalar
    assert student.config.layer_types == teacher.config.layer_types


def test_the_table_names_every_weight_of_every_family() -> None:
    built = {tiny.tiny_model(name).config.model_type for name in FAMILIES}
    assert built == set(ANATOMIES)
    for name in FAMILIES:
        model = tiny.tiny_model(name)
        for weight, tensor in model.state_dict().items():
            assert len(anatomy_of(model).axes_of(weight)) == tensor.ndim, weight
