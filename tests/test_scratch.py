"""Students with random weights: the teacher's architecture in sizes of its own, its tokenizer or a trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import tiny
from instil.core.errors import ModelError
from instil.models.family import family_of
from instil.models.students.anatomy import anatomy_of
from instil.models.students.new_tokenizer import train_tokenizer
from instil.models.students.plan import Widths
from instil.models.students.scratch import from_scratch
from instil.models.students.sizes import sizes_of
from test_students import EXAMPLES, logits, same_weights, sides, weights
from test_width import FAMILIES

TEXTS = ["the red dog sees the small house", "a new tree and an old cat", "the dog runs"] * 5
SMALL = Widths(hidden=24, feed_forward=40, heads=2)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_a_plain_model_of_these_sizes(name: str, tmp_path: Path) -> None:
    teacher = tiny.tiny_model(name)
    before = weights(teacher)
    layers = dict.fromkeys(sides(teacher), 3)
    student: Any
    student, report = from_scratch(teacher, layers, SMALL, seed=1)
    sizes = sizes_of(student.config, anatomy_of(student))
    assert (sizes.hidden, sizes.feed_forward, sizes.heads) == (24, 40, 2)
    assert report.sizes == sizes and report.layers == layers
    family = family_of(student, pad_id=tiny.PAD)
    rows = family.rows(student, family.collate(EXAMPLES))
    rows.head.logits(rows.hidden_ND).logsumexp(-1).sum().backward()
    written = student.generate(torch.tensor([[9, 4, 33]]), max_new_tokens=4, do_sample=False, pad_token_id=tiny.PAD)
    assert written.shape[1] > 1
    student.save_pretrained(tmp_path)
    auto: Any = hf.AutoModelForSeq2SeqLM if teacher.config.is_encoder_decoder else hf.AutoModelForCausalLM
    again = auto.from_pretrained(tmp_path).eval()
    assert type(again) is type(teacher) and torch.equal(logits(again), logits(student))
    assert same_weights(teacher, before)


def test_weights_come_from_the_seed_alone() -> None:
    teacher = tiny.tiny_model("llama")
    state = torch.get_rng_state()
    one, again, other = (weights(from_scratch(teacher, {}, SMALL, seed=seed)[0]) for seed in (1, 1, 2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_last_layer_of_a_pattern_stays_last() -> None:
    teacher = tiny.tiny_model("gemma3")
    kinds = teacher.config.layer_types
    assert kinds == ["sliding_attention", "full_attention"]
    for count in (1, 2, 3, 5):
        student: Any = from_scratch(teacher, {"decoder": count}, Widths(), seed=0)[0]
        assert student.config.layer_types == (kinds * 3)[-count:]


def test_heads_are_as_large_as_the_hidden_size_shared_unless_the_teachers_are_not() -> None:
    assert from_scratch(tiny.tiny_model("llama"), {}, SMALL, seed=0)[1].sizes.head_size == 12
    wide = tiny.tiny_model("gemma3")
    config = wide.config
    config.head_dim = 16
    wide = type(wide)(config)
    assert from_scratch(wide, {}, SMALL, seed=0)[1].sizes.head_size == 16


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_sizes_that_do_not_fit_are_refused(name: str) -> None:
    teacher = tiny.tiny_model(name)
    with pytest.raises(ModelError, match=r"hidden 25 is not a multiple of 4 heads; give 28, or"):
        from_scratch(teacher, {}, Widths(hidden=25), seed=0)


def test_key_value_heads_must_divide_the_heads() -> None:
    with pytest.raises(ModelError, match="4 heads cannot share 3 key-value heads evenly"):
        from_scratch(tiny.tiny_model("llama"), {}, Widths(key_value_heads=3), seed=0)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_trained_tokenizer_has_its_ids_in_the_config(name: str, tmp_path: Path) -> None:
    teacher = tiny.tiny_model(name)
    old = tiny.tiny_tokenizer("encoder-decoder" if name == "t5" else "decoder-only")
    new = train_tokenizer(old, TEXTS, 290)
    assert len(new) <= 290 and len(new("the dog")["input_ids"]) < len(old("the dog")["input_ids"])
    student: Any = from_scratch(teacher, {}, Widths(), seed=0, tokenizers=(old, new))[0]
    assert student.config.vocab_size == len(new) == student.get_input_embeddings().num_embeddings
    assert student.config.eos_token_id == new.eos_token_id == student.generation_config.eos_token_id
    student.save_pretrained(tmp_path)
    new.save_pretrained(tmp_path)
    again = hf.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, "words it has never seen: żółw 😀"):
        assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == text


def test_a_tokenizer_without_room_is_refused() -> None:
    with pytest.raises(ModelError, match="a tokenizer of 3 tokens has no room beside 3 special ones"):
        train_tokenizer(tiny.tiny_tokenizer("decoder-only"), TEXTS, 3)
