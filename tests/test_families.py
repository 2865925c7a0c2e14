"""Rows give each model's own logits and its own loss, to 1e-5 in fp32; logits of encoder-decoders in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy

import tiny
from instil.core.errors import ModelError
from instil.data.tokens import Encoded
from instil.models.family import DecoderOnly, EncoderDecoder, Family, family_of
from instil.models.head import head_of

TOLERANCE = 1e-5
# Lengths differ, two targets are one token long, and pad and start tokens occur inside the data.
EXAMPLES = [
    Encoded("long", (9, 4, 250, 17, 33, 8, 90, tiny.END), (5, 66, 7, tiny.PAD, 12, tiny.END)),
    Encoded("one", (12, 13, tiny.END), (tiny.END,)),
    Encoded("starts with pad", (tiny.PAD, 40, 41, 42, tiny.END), (tiny.PAD, 9, tiny.END)),
    Encoded("short", (77,), (88,)),
]
ALL = (*tiny.ENCODER_DECODER, *tiny.DECODER_ONLY)


def own_loss(model: Any, examples: list[Encoded]) -> Tensor:
    """The model's `labels=` loss, from a batch padded here, by hand."""
    return model(**own_inputs(model, examples)).loss


def own_inputs(model: Any, examples: list[Encoded]) -> dict[str, Tensor]:
    if model.config.is_encoder_decoder:
        read = [list(example.prompt_ids) for example in examples]
        labels = [list(example.target_ids) for example in examples]
    else:
        read = [[*example.prompt_ids, *example.target_ids] for example in examples]
        labels = [[-100] * len(example.prompt_ids) + list(example.target_ids) for example in examples]
    return {
        "input_ids": filled(read, tiny.PAD),
        "attention_mask": filled([[1] * len(ids) for ids in read], 0),
        "labels": filled(labels, -100),
    }


def filled(ids: list[list[int]], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True, padding_value=value)


def own_logits(model: Any, example: Encoded) -> Tensor:
    """The model's logits for one example alone, at the positions that predict its target."""
    if model.config.is_encoder_decoder:
        decoder_ids = torch.tensor([[model.config.decoder_start_token_id, *example.target_ids[:-1]]])
        inputs = {
            "decoder_input_ids": decoder_ids,
            "decoder_attention_mask": torch.ones_like(decoder_ids),
            "input_ids": torch.tensor([example.prompt_ids]),
        }
        return model(**inputs).logits[0]
    ids = torch.tensor([[*example.prompt_ids, *example.target_ids]])
    return model(input_ids=ids).logits[0, len(example.prompt_ids) - 1 : -1]


def rows_loss(family: Family, model: Any, examples: list[Encoded]) -> Tensor:
    rows = family.rows(model, family.collate(examples))
    return cross_entropy(rows.head.logits(rows.hidden_ND), rows.target_N)


def families(model: Any) -> list[Family]:
    family = family_of(model, pad_id=tiny.PAD)
    if isinstance(family, DecoderOnly):
        return [family, DecoderOnly(tiny.PAD, side="left", takes_position_ids=family.takes_position_ids)]
    return [family]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", ALL)
def test_the_mean_over_rows_is_the_models_own_loss(name: str) -> None:
    model = tiny.tiny_model(name)
    own = own_loss(model, EXAMPLES)
    for family in families(model):
        close(rows_loss(family, model, EXAMPLES), own)


@pytest.mark.parametrize("name", [*ALL, *tiny.OTHERS])
def test_logits_of_rows_are_the_models_own_logits(name: str) -> None:
    model = tiny.tiny_model(name)
    if (
        model.config.is_encoder_decoder
    ):  # Whose logits are off by 2e-5 in fp32 on some processors, by the batch's shape.
        model = model.double()
    expected = torch.cat([own_logits(model, example) for example in EXAMPLES])
    for family in families(model):
        rows = family.rows(model, family.collate(EXAMPLES))
        close(rows.head.logits(rows.hidden_ND), expected)
        assert rows.target_N.tolist() == [token for example in EXAMPLES for token in example.target_ids]
        assert rows.example_N.tolist() == [0] * 6 + [1] + [2] * 3 + [3]


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_the_models_own_loss(name: str) -> None:
    model = tiny.tiny_model(name)

    def gradients(loss: Tensor) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        loss.backward()
        return {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}

    expected = gradients(own_loss(model, EXAMPLES))
    for family in families(model):
        found = gradients(rows_loss(family, model, EXAMPLES))
        assert found.keys() == expected.keys()
        for key, gradient in found.items():
            close(gradient, expected[key])


def test_a_decoder_only_batch_by_hand() -> None:
    examples = [Encoded("a", (5, 6, 7), (8, 1)), Encoded("b", (9,), (1,))]
    right = DecoderOnly(0).collate(examples)
    assert right.inputs["input_ids"].tolist() == [[5, 6, 7, 8], [9, 0, 0, 0]]
    assert right.inputs["attention_mask"].min() == 1
    assert right.row_index_N.tolist() == [2, 3, 4]
    left = DecoderOnly(0, side="left").collate(examples)
    assert left.inputs["input_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 0, 9]]
    assert left.inputs["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert left.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]
    assert left.row_index_N.tolist() == [2, 3, 7]


def test_an_encoder_decoder_batch_by_hand() -> None:
    batch = EncoderDecoder(start_id=0, pad_id=0).collate([Encoded("a", (5, 1), (8, 9, 1)), Encoded("b", (6,), (1,))])
    assert batch.inputs["decoder_input_ids"].tolist() == [[0, 8, 9], [0, 0, 0]]
    assert batch.inputs["decoder_attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch.row_index_N.tolist() == [0, 1, 2, 3]
    assert batch.target_N.tolist() == [8, 9, 1, 1]


def test_scales_biases_and_softcaps_are_found() -> None:
    heads = {name: head_of(tiny.tiny_model(name)) for name in ALL}
    assert {name for name, head in heads.items() if head.scale != 1.0} == {"t5"}
    assert heads["t5"].scale == 32**-0.5
    assert {name for name, head in heads.items() if head.softcap is not None} == {"gemma3"}
    assert {name for name, head in heads.items() if head.bias_V is not None} == {"bart", "marian", "pegasus", "gptj"}


@pytest.mark.parametrize("name", ["bart", "gptj", "gemma3"])
def test_ids_above_the_tokenizers_are_left_out(name: str) -> None:
    model = tiny.tiny_model(name)
    family = family_of(model, n_valid=tiny.VOCABULARY)
    rows = family.rows(model, family.collate(EXAMPLES))
    expected = torch.cat([own_logits(model, example) for example in EXAMPLES])[:, : tiny.VOCABULARY]
    close(rows.head.logits(rows.hidden_ND), expected)
    with pytest.raises(ModelError, match="n_valid is 300"):
        family_of(model, n_valid=300)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"target_modules": ["q_proj", "v_proj"]}),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("t5_gated", {"target_modules": ["q", "lm_head"]}),
        ("bart", {"target_modules": ["q_proj", "fc1"]}),
    ],
)
def test_peft_adapters_stay_active(name: str, options: dict[str, Any]) -> None:
    model = get_peft_model(tiny.tiny_model(name), LoraConfig(r=2, init_lora_weights=False, **options)).eval()
    if "modules_to_save" in options:
        torch.nn.init.normal_(model.base_model.model.lm_head.modules_to_save["default"].weight)
    family = family_of(model)
    adapted = own_loss(model, EXAMPLES)
    close(rows_loss(family, model, EXAMPLES), adapted)
    with model.disable_adapter():
        plain = own_loss(model, EXAMPLES)
        close(rows_loss(family, model, EXAMPLES), plain)
    assert (adapted - plain).abs() > 1e-3
    rows_loss(family, model, EXAMPLES).backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


def test_adapters_on_the_head_that_are_more_than_a_product_are_refused() -> None:
    model = get_peft_model(tiny.tiny_model("llama"), LoraConfig(use_dora=True, target_modules=["lm_head"]))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM.*out of the adapter's target_modules"):
        family_of(model)


def test_virtual_tokens_are_refused() -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ModelError, match=r"PROMPT_TUNING.*use LoRA"):
        family_of(get_peft_model(tiny.tiny_model("llama"), config))


BERT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.mark.parametrize("build", [hf.BertModel, hf.BertForMaskedLM])
def test_an_encoder_only_model_is_refused(build: Any) -> None:
    with pytest.raises(ModelError, match=r"Bert.* \(bert\) does not generate text; choose"):
        family_of(build(hf.BertConfig(**BERT)))


@pytest.mark.parametrize("is_decoder", [True, False])
def test_a_head_that_is_more_than_linear_is_refused(is_decoder: bool) -> None:
    model = tiny.scatter(hf.BertLMHeadModel(hf.BertConfig(**BERT, is_decoder=is_decoder)))
    with pytest.raises(ModelError, match=r"BertLMHeadModel \(bert\) computes its logits in a way of its own"):
        family_of(model)


class Sharpened(hf.MistralForCausalLM):
    """An architecture that a user might have written: its logits are not what its head says."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits = output.logits * 1.1
        return output


def test_an_unknown_architecture_that_differs_is_refused() -> None:
    config = tiny.tiny_model("mistral").config
    with pytest.raises(ModelError, match=r"Sharpened \(mistral\)"):
        family_of(tiny.scatter(Sharpened(config)))


def test_the_probe_leaves_modes_as_they_were() -> None:
    model = tiny.tiny_model("mistral").train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    family_of(model)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_an_empty_prompt_or_target_is_named() -> None:
    for example in (Encoded("no-target", (5,), ()), Encoded("no-prompt", (), (5,))):
        with pytest.raises(ModelError, match=example.id):
            DecoderOnly().collate([example])


def test_an_encoder_decoder_without_start_token_says_so() -> None:
    model = tiny.tiny_model("bart")
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        family_of(model)
