"""A tokenizer as GGUF holds it. Whether llama.cpp then reads texts in the same tokens is seen when it is reloaded.

llama.cpp cuts texts into words by rules that it knows by name, so the rule that equals the tokenizer's own is looked
for. Of these only Llama 3's and Tekken's take words that are tokens as they are, without merging (`ignore_merges`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import gguf

from instil.core.errors import ModelError
from instil.export.student import Student

_KIND = gguf.TokenType
_NEVER = [("<never>", "<never>")]
"""A merge that no text asks for: llama.cpp will have at least one."""


def add_tokens(writer: gguf.GGUFWriter, student: Student) -> None:
    """Add the student's tokenizer, its special tokens and its chat template. Raises `ModelError` for a kind of
    tokenizer that llama.cpp does not have."""
    tokenizer = student.loaded.tokenizer
    if not tokenizer.is_fast:
        raise ModelError("its tokenizer has no tokenizer.json, from which GGUF is made; take ctranslate2 instead")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "BPE":
        raise ModelError(
            f"its tokenizer is of type {state['model']['type']}, GGUF is offered for BPE; take ctranslate2"
        )
    bytewise = "ByteLevel" in _words(state)
    rule, whole = _rule(state) if bytewise else ("", False)
    if state["model"]["ignore_merges"] and not whole:
        raise ModelError(
            "its tokenizer takes words that are tokens as they are; llama.cpp does so only for cuts like Llama 3's or"
            " Tekken's; train a student with student.vocabulary.words: merged, or take ctranslate2 or onnx"
        )
    tokens, kinds = zip(*_listed(state, student.sheet("gguf", "").vocabulary, bytewise), strict=True)
    if bytewise:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(rule)
        writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"] or _NEVER])
    else:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(_scores(state["model"], tokens))
        writer.add_add_space_prefix(_prefixed(state))
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(kinds))
    _add_special(writer, student)


def _words(state: Mapping[str, Any]) -> list[str]:
    """The kinds of the steps that cut a text into words."""
    return [step["type"] for step in _steps(state)]


def _steps(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    first = state["pre_tokenizer"] or {"type": "Sequence", "pretokenizers": []}
    return list(first["pretokenizers"]) if first["type"] == "Sequence" else [first]


def _rule(state: Mapping[str, Any]) -> tuple[str, bool]:
    """llama.cpp's name for how the tokenizer cuts words, and whether words that are tokens stay whole there."""
    steps, whole = _steps(state), bool(state["model"]["ignore_merges"])
    pattern = next((str(step["pattern"].get("Regex", "")) for step in steps if step["type"] == "Split"), "")
    if "Digits" in _words(state):
        return "smollm", False
    if not pattern:
        return "gpt-2", False
    if r"\p{N}{1,3}" in pattern:
        return ("gpt-4o", False) if r"\p{Lu}" in pattern else ("llama-bpe", True)
    if r"\p{Lu}" in pattern:
        return "tekken", True
    if r"\p{M}" in pattern:
        return "qwen35", False
    # Its words are those of Llama 3 but for numbers, whose tokens are single digits in both.
    return ("llama-bpe", True) if whole else ("qwen2", False)


def _listed(state: Mapping[str, Any], size: int, bytewise: bool) -> Iterator[tuple[str, gguf.TokenType]]:
    added = {entry["id"]: entry for entry in state["added_tokens"]}
    names = {number: token for token, number in state["model"]["vocab"].items()}
    for number in range(size):
        if number in added:
            entry = added[number]
            yield entry["content"], _KIND.CONTROL if entry["special"] else _KIND.USER_DEFINED
        elif number not in names:
            yield f"[PAD{number}]", _KIND.UNUSED
        elif not bytewise and len(names[number]) == 6 and names[number].startswith("<0x"):
            yield names[number], _KIND.BYTE
        else:
            yield names[number], _KIND.NORMAL


def _scores(model: Mapping[str, Any], tokens: tuple[str, ...]) -> list[float]:
    """llama.cpp merges the pair whose product scores highest: the earlier a merge, the higher."""
    scores: dict[str, float] = {}
    for rank, (left, right) in enumerate(model["merges"]):
        scores.setdefault(left + right, -float(rank))
    return [scores.get(token, -1e6) for token in tokens]


def _prefixed(state: Mapping[str, Any]) -> bool:
    """Whether a text begins with a space that it has not."""
    return '"Prepend"' in json.dumps(state["normalizer"]) or any(
        step.get("prepend_scheme") in ("always", "first") for step in _steps(state)
    )


def _add_special(writer: gguf.GGUFWriter, student: Student) -> None:
    tokenizer, ends = student.loaded.tokenizer, student.sheet("gguf", "").alphabet.ends
    if ends:
        writer.add_eos_token_id(ends[0])
    for name in ("bos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    read = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and read[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
