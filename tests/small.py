"""Small real tokenizers, each of the kinds that a vocabulary can be cut out of, and small models that go with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import tiny
from instil.data.records import Record
from instil.data.synopsis import load

_SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]
_PADDED = 5


@functools.cache
def texts() -> list[Record]:
    """Some real pairs."""
    return load("validation")


def _corpus() -> list[str]:
    return [text for record in texts() for text in (record.source[:400], *record.targets)]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=1500, special_tokens=_SPECIAL, initial_alphabet=alphabet)
    )
    return tokenizer


def _learned(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    state = json.loads(tokenizer.to_str())["model"]
    return state["vocab"], [tuple(pair) for pair in state["merges"]]


def _spaced() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces over characters with `▁` for spaces, behind special tokens and the 256 byte tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(_corpus(), trainers.BpeTrainer(vocab_size=1500, special_tokens=first))
    return _learned(tokenizer)


def _pieces() -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=1200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(_corpus(), trainer)
    return [tuple(entry) for entry in json.loads(tokenizer.to_str())["model"]["vocab"]]


def _plain(tokenizer: Tokenizer, **special: str) -> Any:
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def _plain_unigram() -> Any:
    tokenizer = Tokenizer(models.Unigram(_pieces(), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _plain(tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _of_class(name: str) -> Any:
    vocab, merges = _learned(_byte_level())
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return getattr(hf, name)(vocab=vocab, merges=merges, **named)


def _spaced_class(name: str) -> Any:
    vocab, merges = _spaced()
    named = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return getattr(hf, name)(vocab=vocab, merges=merges, **named)


BUILDERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "byte-level": (
        "llama",
        lambda: _plain(_byte_level(), pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"),
    ),
    "gpt2": ("gpt2", lambda: _of_class("GPT2Tokenizer")),
    "qwen": ("qwen3", lambda: _of_class("Qwen2Tokenizer")),
    "gemma": ("gemma3", lambda: _spaced_class("GemmaTokenizer")),
    "llama": ("llama", lambda: _spaced_class("LlamaTokenizer")),
    "t5": ("t5", lambda: hf.T5Tokenizer(vocab=_pieces(), extra_ids=0)),
    "unigram": ("bart", _plain_unigram),
}
"""Tokenizers by name: the tiny model that each goes with, and how it is made."""


@functools.cache
def small_tokenizer(name: str) -> Any:
    """The tokenizer `name` of `BUILDERS`."""
    return BUILDERS[name][1]()


@functools.cache
def small_model(name: str) -> Any:
    """A tiny model for that tokenizer, its embedding padded by a few rows."""
    tokenizer = small_tokenizer(name)
    like = tiny.tiny_model(BUILDERS[name][0])
    config = like.config
    config.vocab_size = len(tokenizer) + _PADDED
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    if getattr(config, "bos_token_id", None) is not None:
        config.bos_token_id = tokenizer.bos_token_id
    if config.is_encoder_decoder:
        config.decoder_start_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    return tiny.scatter(type(like)(config)).eval()
