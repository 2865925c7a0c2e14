"""Unigram: of all the ways to cut a text into pieces, the one with the highest sum of scores (SentencePiece).

A text whose pieces are all kept is read as before: only other ways to cut it are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from instil.models.students.vocabulary.pieces import byte_spelling


@dataclass(frozen=True)
class Unigram:
    """`state`: the `model` of a tokenizer.json."""

    state: Mapping[str, Any]
    by_word: bool = True

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """All pieces."""
        return {piece: number for number, (piece, _) in enumerate(self.state["vocab"])}

    def atoms(self) -> set[str]:
        """Bytes or characters, the unknown piece, and the piece with the lowest score, by which unknown characters are
        weighed."""
        always = {min(self.state["vocab"], key=lambda entry: entry[1])[0], *self._unknown}
        # A piece with a character that is none itself cannot be spelled by others.
        return always | (
            byte_spelling(self.state, self.ids)
            or {piece for piece in self.ids if len(piece) == 1 or not self.ids.keys() >= set(piece)}
        )

    def parts(self, token: str) -> set[str]:
        """A piece is found by itself."""
        return {token}

    def keeping(self, new_ids: Mapping[str, int]) -> dict[str, Any]:
        """With the old scores."""
        pieces = [entry for entry in self.state["vocab"] if entry[0] in new_ids]
        unknown = next((new_ids[piece] for piece in self._unknown), None)
        return {**self.state, "vocab": pieces, "unk_id": unknown}

    @property
    def _unknown(self) -> list[str]:
        number = self.state.get("unk_id")
        return [] if number is None else [self.state["vocab"][number][0]]
