"""A tokenizer with fewer tokens: its tokenizer.json rewritten, then read again as transformers will read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from instil.core.errors import ModelError
from instil.models.folders import quiet_transformers
from instil.models.students.vocabulary.bpe import BytePairs
from instil.models.students.vocabulary.pieces import Pieces
from instil.models.students.vocabulary.unigram import Unigram

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_FILE, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_READS_BY = ("normalizer", "pre_tokenizer", "model", "post_processor", "decoder", "added_tokens")


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
    """The pieces of a fast tokenizer. Raises `ModelError` for a type that is neither BPE nor Unigram."""
    from transformers import TokenizersBackend

    state = state_of(tokenizer)["model"]
    if state["type"] == "BPE":
        # A class that makes its merging anew leaves out what is said about words.
        return BytePairs(state, by_word=type(tokenizer).__init__ is TokenizersBackend.__init__)
    if state["type"] == "Unigram":
        return Unigram(state)
    raise ModelError(
        f"the tokenizer is of type {state['type']}; only vocabularies of BPE and Unigram can be trimmed;"
        " leave student.vocabulary out"
    )


def keep_tokens(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, kept: Sequence[int]
) -> PreTrainedTokenizerBase:
    """A tokenizer with only the ids `kept` (rising), renumbered from 0 on; `tokenizer` is untouched. `config`: of the
    model that it stands beside, since transformers chooses a tokenizer's class by it.

    Raises `ModelError` where the class of the tokenizer would make something else of its files.
    """
    from transformers import AutoTokenizer

    state = _renumbered(state_of(tokenizer), pieces_of(tokenizer), {old: new for new, old in enumerate(kept)})
    with TemporaryDirectory() as name, quiet_transformers():
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)
        for path in folder.iterdir():
            if path.name.startswith(("vocab.", "merges.")) or path.suffix in (".model", ".spm"):
                path.unlink()
        (folder / _FILE).write_text(json.dumps(state, ensure_ascii=False), encoding="utf8")
        trimmed = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    trimmed.name_or_path = tokenizer.name_or_path
    found = state_of(trimmed)
    if changed := [part for part in _READS_BY if found[part] != state[part]]:
        raise ModelError(
            f"transformers reads the trimmed {type(trimmed).__name__} with another {changed[0]} than was written;"
            " leave student.vocabulary out"
        )
    return trimmed


def _renumbered(state: Mapping[str, Any], pieces: Pieces, new_ids: Mapping[int, int]) -> dict[str, Any]:
    new = {token: new_ids[number] for token, number in pieces.ids.items() if number in new_ids}
    added = [entry | {"id": new_ids[entry["id"]]} for entry in state["added_tokens"]]
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
