"""A tokenizer with other rules or fewer tokens: its tokenizer.json rewritten, and read again as transformers does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from instil.core.errors import ModelError
from instil.models.students.vocabulary.bpe import BytePairs
from instil.models.students.vocabulary.pair import is_pair, keep_in_pair, pair_of
from instil.models.students.vocabulary.pieces import SPACE, ModelPieces, Pieces
from instil.models.students.vocabulary.reread import reread
from instil.models.students.vocabulary.unigram import Unigram

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_FILE = "tokenizer.json"
_PARTS = ("normalizer", "pre_tokenizer", "model", "post_processor", "decoder", "added_tokens")
_SPECIAL_LISTS = ("extra_special_tokens", "additional_special_tokens")
_AT_SPACES = {"type": "Split", "pattern": {"Regex": f"{SPACE}+[^{SPACE}]*"}, "behavior": "Isolated", "invert": False}


def state_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a fast tokenizer writes into its tokenizer.json. Raises `ModelError` for one that is not fast."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} has no tokenizer.json, so its vocabulary cannot be trimmed;"
            " leave student.vocabulary out"
        )
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return state


def pieces_of(tokenizer: PreTrainedTokenizerBase) -> Pieces:
    """The pieces of a fast tokenizer or of Marian's. Raises `ModelError` for a type that is neither BPE nor Unigram."""
    return pair_of(tokenizer) if is_pair(tokenizer) else _pieces_in(state_of(tokenizer)["model"])


def _pieces_in(state: Mapping[str, Any]) -> ModelPieces:
    if state["type"] == "BPE":
        return BytePairs(state)
    if state["type"] == "Unigram":
        return Unigram(state)
    raise ModelError(
        f"the tokenizer is of type {state['type']}; only vocabularies of BPE and Unigram can be trimmed;"
        " leave student.vocabulary out"
    )


def by_word(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> PreTrainedTokenizerBase | None:
    """The same tokenizer, with words that are tokens taken as they are instead of merged together, so that they need
    none of their parts; None where there is no merging, or where transformers would not read it back so.

    Of a tokenizer that merges across a whole text with signs for its spaces (Llama 2, Gemma), words are cut at those:
    its tokens do not reach across them. A few may (Gemma 3's `>▁</`), so a caller has to see whether texts that matter
    come out the same. The class becomes transformers' general one, since others make their merging anew.
    """
    if is_pair(tokenizer):
        return None
    state = state_of(tokenizer)
    if state["model"]["type"] != "BPE" or state["model"]["ignore_merges"]:
        return None
    first = state["pre_tokenizer"]
    if SPACE in state["model"]["vocab"]:
        first = {"type": "Sequence", "pretokenizers": [*([first] if first else []), _AT_SPACES]}
    changed = {**state, "model": {**state["model"], "ignore_merges": True}, "pre_tokenizer": first}
    try:
        return _reread(tokenizer, config, changed, {"tokenizer_class": "TokenizersBackend"})
    except ModelError:
        return None


def keep_tokens(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, kept: Sequence[int]
) -> PreTrainedTokenizerBase:
    """A tokenizer with only the ids `kept` (rising), renumbered from 0 on; `tokenizer` is untouched. `config`: of the
    model that it stands beside, since transformers chooses a tokenizer's class by it.

    Raises `ModelError` where the class of the tokenizer would make something else of its files.
    """
    new_ids = {old: new for new, old in enumerate(kept)}
    if is_pair(tokenizer):
        return keep_in_pair(tokenizer, config, new_ids)
    state = state_of(tokenizer)
    return _reread(tokenizer, config, _renumbered(state, _pieces_in(state["model"]), new_ids), {})


def _reread(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, state: Mapping[str, Any], settings: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    """The tokenizer that transformers makes of this tokenizer.json, with these values in the settings beside it."""
    content = json.dumps(state, ensure_ascii=False).encode()
    made = reread(tokenizer, config, {_FILE: content}, lambda old: {**_without_lost(old, state), **settings})
    found = state_of(made)
    if changed := [part for part in _PARTS if found[part] != state[part]]:
        raise ModelError(
            f"transformers reads the trimmed {type(made).__name__} with another {changed[0]} than was written;"
            " leave student.vocabulary out"
        )
    return made


def _without_lost(settings: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's settings without the special tokens that are gone, which would come back as new ones."""
    known = {entry["content"] for entry in state["added_tokens"]}
    left = {key: value for key, value in settings.items() if key != "added_tokens_decoder"}
    for key in _SPECIAL_LISTS:
        if isinstance(left.get(key), list):
            left[key] = [token for token in left[key] if not isinstance(token, str) or token in known]
    return left


def _renumbered(state: Mapping[str, Any], pieces: ModelPieces, new_ids: Mapping[int, int]) -> dict[str, Any]:
    new = {token: new_ids[number] for token, number in pieces.ids.items() if number in new_ids}
    added = [entry | {"id": new_ids[entry["id"]]} for entry in state["added_tokens"] if entry["id"] in new_ids]
    every = new | {entry["content"]: entry["id"] for entry in added}
    return {
        **state,
        "model": pieces.keeping(new),
        "added_tokens": added,
        "post_processor": _with_ids(state["post_processor"], every),
        "padding": None,
        "truncation": None,
    }


def _with_ids(processor: Any, ids: Mapping[str, int]) -> Any:
    """A post-processor that adds the same tokens by their new ids."""
    if processor is None:
        return None
    changed = dict(processor)
    if processor["type"] == "Sequence":
        changed["processors"] = [_with_ids(each, ids) for each in processor["processors"]]
    elif processor["type"] == "TemplateProcessing":
        changed["special_tokens"] = {
            name: {**entry, "ids": [ids[token] for token in entry["tokens"]]}
            for name, entry in processor["special_tokens"].items()
        }
    for end in ("sep", "cls"):
        if end in processor:  # BERT's and RoBERTa's.
            changed[end] = [processor[end][0], ids[processor[end][0]]]
    return changed
