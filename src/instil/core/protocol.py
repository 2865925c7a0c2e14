"""The `Generator` protocol: anything that turns source texts into target texts can be evaluated and served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Generator(Protocol):
    """A text-to-text system: a transformers model, an exported engine, a server, or a trivial baseline."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def parameters(self) -> int:
        """Number of distinct weights; 0 for a system without weights."""

    @property
    def bytes(self) -> int:
        """Bytes that the weights take in memory; 0 for a system without weights."""

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        """One output for each of `sources`, in their order; greedy, so repeatable."""
