"""Marian's pair: a SentencePiece model cuts sources into pieces, another one targets, and one table numbers the pieces.

The models propose pieces without asking the table, and what it does not know is read as unknown. So a piece that loses
its number leaves the models too, and its text falls into smaller ones. Pieces that had no number before leave as well,
all but single characters, or a text that was read whole could fall into one of them; what was such a piece is spelled.

A run of characters that a model lacks it proposes as one, and the table may know it as a piece of the other model. Such
a run cannot be spelled: it stays where the data have it, like any piece, and may become unknown elsewhere. To keep them
all would be to keep nearly all pieces of two languages that do not share a script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from instil.core.errors import ModelError
from instil.models.students.vocabulary.reread import reread

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_CLASS = "MarianTokenizer"
_TABLE, _MODELS = "vocab.json", ("source.spm", "target.spm")
# Numbers in SentencePiece's format.
_UNIGRAM = 1
_NORMAL = 1


def is_pair(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is Marian's."""
    return type(tokenizer).__name__ == _CLASS


@dataclass(frozen=True)
class Pair:
    """`ids`: the table. `models`: that of sources and that of targets, as SentencePiece's messages."""

    ids: Mapping[str, int]
    models: tuple[Any, Any]
    by_word: bool = True

    def atoms(self) -> set[str]:
        """Of each model what its pieces are spelled with, and the names of languages, by which a text chooses one."""
        named = {token for token in self.ids if token.startswith(">>") and token.endswith("<<")}
        return named.union(*(self._spelling(model) for model in self.models))

    def parts(self, token: str) -> set[str]:
        """A piece is found by itself; empty for what neither model proposes."""
        return {token} & self._proposed

    def keeping(self, new_ids: Mapping[str, int]) -> dict[str, bytes]:
        """The files of both models and the table, with only the pieces of `new_ids`, their scores as they were."""
        table = json.dumps(dict(new_ids), ensure_ascii=False).encode()
        return {_TABLE: table} | {
            file: self._fewer(model, new_ids) for file, model in zip(_MODELS, self.models, strict=True)
        }

    @cached_property
    def _proposed(self) -> set[str]:
        return {entry.piece for model in self.models for entry in model.pieces}

    def _spelling(self, model: Any) -> set[str]:
        """Characters, all that is no plain piece, what has a character that is none itself, and the piece with the
        lowest score, by which unknown characters are weighed."""
        known = [entry for entry in model.pieces if entry.piece in self.ids]
        characters = {entry.piece for entry in known if len(entry.piece) == 1}
        plain = [entry for entry in known if entry.type == _NORMAL]
        lowest = {entry.piece for entry in sorted(plain, key=lambda entry: entry.score)[:1]}
        other = {entry.piece for entry in known if entry.type != _NORMAL or not set(entry.piece) <= characters}
        return characters | lowest | other

    def _fewer(self, model: Any, new_ids: Mapping[str, int]) -> bytes:
        fewer = type(model)()
        fewer.CopyFrom(model)
        del fewer.pieces[:]
        fewer.pieces.extend(
            entry for entry in model.pieces
            if entry.type != _NORMAL or len(entry.piece) == 1 or entry.piece in new_ids
        )  # fmt: skip
        # Samples of how the whole model cuts texts; SentencePiece refuses one that cuts them in another way.
        fewer.ClearField("self_test_data")
        content: bytes = fewer.SerializeToString()
        return content


def pair_of(tokenizer: Any) -> Pair:
    """The pair of Marian's tokenizer. Raises `ModelError` for one whose targets have a table of their own, and for
    models that are no unigrams."""
    from transformers.convert_slow_tokenizer import import_protobuf

    if tokenizer.separate_vocabs:
        raise ModelError(
            f"{_CLASS} has one vocabulary for sources and one for targets, which cannot be trimmed;"
            " leave student.vocabulary out"
        )
    read = import_protobuf().ModelProto.FromString
    source, target = (read(each.serialized_model_proto()) for each in (tokenizer.spm_source, tokenizer.spm_target))
    for file, model in zip(_MODELS, (source, target), strict=True):
        if model.trainer_spec.model_type != _UNIGRAM:
            raise ModelError(
                f"{_CLASS}'s {file} is not of type Unigram, so its vocabulary cannot be trimmed;"
                " leave student.vocabulary out"
            )
    return Pair(tokenizer.encoder, (source, target))


def keep_in_pair(tokenizer: Any, config: PreTrainedConfig, new_ids: Mapping[int, int]) -> PreTrainedTokenizerBase:
    """Marian's tokenizer with only the ids of `new_ids`, under these; `tokenizer` is untouched. `config`: of the model
    that it stands beside. Raises `ModelError` where transformers reads back something else than was written."""
    table = {token: new_ids[number] for token, number in tokenizer.encoder.items() if number in new_ids}
    added = {new_ids[number]: token for number, token in tokenizer.added_tokens_decoder.items()}

    def renumbered(settings: dict[str, Any]) -> dict[str, Any]:
        entries = settings["added_tokens_decoder"]
        return {**settings, "added_tokens_decoder": {new_ids[int(number)]: entries[number] for number in entries}}

    made: Any = reread(tokenizer, config, pair_of(tokenizer).keeping(table), renumbered)
    if not is_pair(made) or made.encoder != table or made.added_tokens_decoder != added:
        raise ModelError(
            f"transformers reads the trimmed {_CLASS} with other ids than were written; leave student.vocabulary out"
        )
    return made
