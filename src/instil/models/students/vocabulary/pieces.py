"""What trimming asks of the model inside a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

SPACE = "▁"
"""What stands for a space where characters may be spelled in bytes: it alone may not, it would come back as itself."""
BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))

Words = Literal["merged", "whole"]
"""How a tokenizer of merged pieces finds a word: merged out of its parts, which every engine does, or as it is."""


class Pieces(Protocol):
    """The tokens of a tokenizer, and which of them depend on which."""

    @property
    def by_word(self) -> bool:
        """Whether a word that is a token is found as it is, without its parts."""

    @property
    def ids(self) -> Mapping[str, int]:
        """All tokens."""

    def atoms(self) -> set[str]:
        """The tokens that every text can be spelled with."""

    def parts(self, token: str) -> set[str]:
        """The tokens that have to be there for `token` to be found in a text."""


class ModelPieces(Pieces, Protocol):
    """Those of the `model` of a tokenizer.json."""

    def keeping(self, new_ids: Mapping[str, int]) -> dict[str, Any]:
        """The `model` with only the tokens of `new_ids`, under these ids, which are in the old order."""


def byte_spelling(state: Mapping[str, Any], ids: Mapping[str, int]) -> set[str]:
    """The tokens of a tokenizer that spells unknown characters in bytes; empty for one that does not."""
    if not (state.get("byte_fallback") and ids.keys() >= BYTES):
        return set()
    return set(BYTES) | ({SPACE} & ids.keys())
