"""Generated texts are greedy, do not depend on the batch, and leave the model as it was."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.utils import logging

import tiny
from instil.core.errors import ModelError
from instil.core.protocol import Generator
from instil.data.prompts import Prompt
from instil.data.tokens import encode_prompt
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator

SOURCES = [
    "a",
    "the quick brown fox jumps over the lazy dog",
    "no",
    "ein kurzer Satz",
    "\u00fcber",
    "1 2 3 4 5 6 7",
    "zz",
    "x y",
]
PROMPT = Prompt(kind="template", text="{source} =>")
ALL = (*tiny.ENCODER_DECODER, *tiny.DECODER_ONLY)


def generator(model: Any, **options: Any) -> TransformersGenerator:
    kind = family_of(model).kind
    return TransformersGenerator(
        model, tiny.tiny_tokenizer(kind), PROMPT, **{"name": "tiny", "max_source_tokens": 40, **options}
    )


def step_by_step(tiny_generator: TransformersGenerator, source: str, steps: int) -> str:
    """Greedy decoding the slow way: one whole forward pass, without cache or padding, for each token."""
    model: Any = tiny_generator.model
    tokenizer, kind = tiny_generator.tokenizer, tiny_generator.kind
    prompt = encode_prompt(tokenizer, PROMPT, source, 40, kind)
    written: list[int] = []
    for _ in range(steps):
        if kind == "encoder-decoder":
            decoder_ids = torch.tensor([[model.config.decoder_start_token_id, *written]])
            inputs = {"decoder_input_ids": decoder_ids, "decoder_attention_mask": torch.ones_like(decoder_ids)}
            logits_V = model(input_ids=torch.tensor([prompt]), **inputs).logits[0, -1]
        else:
            logits_V = model(input_ids=torch.tensor([[*prompt, *written]])).logits[0, -1]
        written.append(int(logits_V.argmax()))
        if written[-1] == tiny.END:
            break
    return tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", ALL)
def test_texts_do_not_depend_on_the_batch_and_are_greedy(name: str) -> None:
    tiny_generator = generator(tiny.tiny_model(name))
    one_by_one = tiny_generator.generate(SOURCES, max_new_tokens=12, batch_size=1)
    assert tiny_generator.generate(SOURCES, max_new_tokens=12, batch_size=8) == one_by_one
    assert tiny_generator.generate(SOURCES, max_new_tokens=12, batch_size=3) == one_by_one
    assert one_by_one == [step_by_step(tiny_generator, source, 12) for source in SOURCES]
    assert len(set(one_by_one)) > 1


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_beams_do_not_depend_on_the_batch(name: str) -> None:
    beams = generator(tiny.tiny_model(name), num_beams=3)
    texts = beams.generate(SOURCES, max_new_tokens=8, batch_size=8)
    assert texts == beams.generate(SOURCES, max_new_tokens=8, batch_size=1)
    assert texts != generator(beams.model).generate(SOURCES, max_new_tokens=8, batch_size=8)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_model_is_left_as_it_was_and_its_sampling_is_ignored(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    logging.set_verbosity_warning()
    model = tiny.tiny_model(name)
    greedy = generator(model).generate(SOURCES, max_new_tokens=8)
    model.train()
    own = model.generation_config
    own.update(do_sample=True, temperature=5.0, top_p=0.9, top_k=3, max_length=7, min_length=5, no_repeat_ngram_size=1)
    before = own.to_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generator(model).generate(SOURCES, max_new_tokens=8, batch_size=4) == greedy
    assert all(module.training for module in model.modules())
    assert model.generation_config is own
    assert own.to_dict() == before
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_text_ends_before_any_end_token_of_the_model(name: str) -> None:
    model = tiny.tiny_model(name)
    # Printable ASCII only, so that each token is one letter of the text.
    model.generation_config.suppress_tokens = [*range(tiny.FIRST_BYTE), *range(97, tiny.PADDED_VOCABULARY)]
    texts = generator(model).generate(SOURCES, max_new_tokens=12)
    assert all(len(text) == 12 and text.isascii() for text in texts)
    letter = max(texts[0][3:], key=texts[0].index)
    end = tiny.tiny_tokenizer("decoder-only")(letter)["input_ids"][0]
    model.generation_config.eos_token_id = [tiny.END, end]
    for batch_size in (1, 8):
        cut = generator(model).generate(SOURCES, max_new_tokens=12, batch_size=batch_size)
        assert cut == [text.split(letter)[0] for text in texts]
        assert cut != texts


def test_it_is_a_generator_with_a_size() -> None:
    model = tiny.tiny_model("qwen3")
    tied = generator(model, name="student")
    assert isinstance(tied, Generator)
    assert tied.name == "student"
    assert tied.parameters == model.num_parameters()
    assert tied.bytes == 4 * tied.parameters
    assert tied.generate([], max_new_tokens=4) == []


def test_adapters_take_part() -> None:
    plain = generator(tiny.tiny_model("llama")).generate(SOURCES, max_new_tokens=8)
    adapted = get_peft_model(tiny.tiny_model("llama"), LoraConfig(init_lora_weights=False, target_modules=["q_proj"]))
    assert generator(adapted).generate(SOURCES, max_new_tokens=8) != plain


def test_progress_counts_texts() -> None:
    done: list[int] = []
    generator(tiny.tiny_model("llama"), progress=done.append).generate(SOURCES, max_new_tokens=2, batch_size=3)
    assert done == [3, 6, 8]


def test_too_long_an_output_is_refused_before_it_starts() -> None:
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel \(gpt2\) has 128 positions, but 2\d\d are needed"):
        generator(tiny.tiny_model("gpt2")).generate(SOURCES, max_new_tokens=200)


def test_a_source_without_tokens_is_named() -> None:
    tiny_generator = generator(tiny.tiny_model("llama"))
    tiny_generator.prompt = Prompt()
    with pytest.raises(ModelError, match="''"):
        tiny_generator.generate(["a", ""], max_new_tokens=4)
