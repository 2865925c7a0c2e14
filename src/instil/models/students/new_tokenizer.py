"""A tokenizer trained on the data: of the same kind as another and with its special tokens, or made from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from instil.core.errors import ModelError
from instil.data.tokens import Kind

_SPECIAL = ("<pad>", "</s>", "<s>")


def train_tokenizer(tokenizer: Any, texts: Iterable[str], size: int) -> Any:
    """A tokenizer of at most `size` tokens made from `texts`; special tokens, normalisation and chat template stay.

    Raises `ModelError` for a tokenizer of a kind that cannot be trained, and for a `size` without room for any text.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} cannot be trained anew, only tokenizers with a tokenizer.json can; leave"
            " tokenizer out, and the student reads in the teacher's tokens"
        )
    _require_room(size, len(tokenizer.all_special_ids), "special ones")
    made = tokenizer.train_new_from_iterator(iter(texts), vocab_size=size, show_progress=False)
    made.chat_template = tokenizer.chat_template
    return made


def make_tokenizer(texts: Iterable[str], size: int, kind: Kind) -> Any:
    """A tokenizer of at most `size` tokens made from `texts`, for a model of this `kind`: byte pairs over the bytes of
    UTF-8, so that it can write any text, with digits one by one, so that a number is spelt alike wherever it stands.

    The same texts give the same tokenizer. Raises `ModelError` for a `size` without room for the bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _require_room(size, len(_SPECIAL) + len(alphabet), "special ones and bytes")
    pad, end, begin = _SPECIAL
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(_SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(iter(texts), trainer)
    if kind == "encoder-decoder":
        made.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, made.token_to_id(end))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, eos_token=end, bos_token=begin, clean_up_tokenization_spaces=False
    )


def _require_room(size: int, taken: int, what: str) -> None:
    if size <= taken:
        raise ModelError(f"a tokenizer of {size} tokens has no room beside {taken} {what}; give some thousands")


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
