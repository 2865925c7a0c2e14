"""A tokenizer trained on the data, of the same kind as the teacher's and with its special tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from instil.core.errors import ModelError


def train_tokenizer(tokenizer: Any, texts: Iterable[str], size: int) -> Any:
    """A tokenizer of at most `size` tokens made from `texts`; special tokens, normalisation and chat template stay.

    Raises `ModelError` for a tokenizer of a kind that cannot be trained, and for a `size` without room for any text.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} cannot be trained anew, only tokenizers with a tokenizer.json can; leave"
            " tokenizer out, and the student reads in the teacher's tokens"
        )
    special = len(tokenizer.all_special_ids)
    if size <= special:
        raise ModelError(f"a tokenizer of {size} tokens has no room beside {special} special ones; give some thousands")
    made = tokenizer.train_new_from_iterator(iter(texts), vocab_size=size, show_progress=False)
    made.chat_template = tokenizer.chat_template
    return made


def token_settings(settings: Any, old: Any, new: Any) -> dict[str, Any]:
    """What a model's `settings` (its config, or those of generation) say of tokens, in the ids of the tokenizer `new`
    instead of `old`: each special token, and the size of the vocabulary where they have one."""
    found: dict[str, Any] = {}
    for key, value in settings.to_dict().items():
        if key.endswith("_token_id") and value is not None:
            found[key] = (
                [_renumbered(each, old, new) for each in value]
                if isinstance(value, list)
                else _renumbered(value, old, new)
            )
        elif key in ("vocab_size", "decoder_vocab_size"):
            found[key] = len(new)
    return found


def _renumbered(token_id: int, old: Any, new: Any) -> int | None:
    token = old.convert_ids_to_tokens(token_id)
    found: int | None = new.get_vocab().get(token)
    return found
