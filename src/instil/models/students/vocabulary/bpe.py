"""Byte-pair encoding: a token is made by merging two shorter ones, so it is found only while those are there.

A text whose tokens are all kept, with all that is merged on the way to them, is read as before: the merges that made
it are there in their old order, and those that are gone would not have been taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from instil.core.errors import ModelError
from instil.models.students.vocabulary.pieces import byte_spelling


@dataclass(frozen=True)
class BytePairs:
    """`state`: the `model` of a tokenizer.json. Raises `ModelError` for one that marks the place of a token in its
    word, since its merges are written in another way."""

    state: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if mark := self.state.get(name):
                raise ModelError(
                    f"the tokenizer marks parts of words ({name} {mark!r}), so its vocabulary cannot be trimmed;"
                    " leave student.vocabulary out"
                )

    @property
    def by_word(self) -> bool:
        """Whether a word that is a token is taken as it is."""
        return bool(self.state["ignore_merges"])

    @property
    def ids(self) -> Mapping[str, int]:
        """All tokens."""
        return self.state["vocab"]

    def atoms(self) -> set[str]:
        """Bytes where unknown characters are spelled in them; else all characters (of a tokenizer that works on bytes,
        each is one), and what stands for an unknown one."""
        characters = {token for token in self.ids if len(token) == 1}
        return (byte_spelling(self.state, self.ids) or characters) | ({self.state["unk_token"]} & self.ids.keys())

    def parts(self, token: str) -> set[str]:
        """All that is merged on the way to `token`, from its characters on; empty if no merging leads there."""
        word, made = list(token), set(token)
        while len(word) > 1:
            ranks = [self._ranks.get(pair, math.inf) for pair in pairwise(word)]
            place = ranks.index(min(ranks))
            if ranks[place] == math.inf:
                return set()
            word[place : place + 2] = [word[place] + word[place + 1]]
            made.add(word[place])
        return made if made <= self.ids.keys() else set()

    def keeping(self, new_ids: Mapping[str, int]) -> dict[str, Any]:
        """Without the merges that have lost a part or their product."""
        merges = [pair for pair in self.state["merges"] if {*pair, "".join(pair)} <= new_ids.keys()]
        vocab = {token: new_ids[token] for token in self.ids if token in new_ids}
        return {**self.state, "vocab": vocab, "merges": merges}

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {(left, right): rank for rank, (left, right) in enumerate(self.state["merges"])}
