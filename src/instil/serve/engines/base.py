"""What every engine is, and the text of tokens as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tokenizers.decoders import DecodeStream

from instil.data.tokens import Kind
from instil.serve.jobs import Job

FAULT = 500
"""From this status of HTTP on, the fault is the engine's and not the request's."""
_TORN = "\N{REPLACEMENT CHARACTER}"
"""What a character that is written in part decodes to."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is known of a running engine. `batch`: jobs that it takes at once; `workers`: threads that may call it;
    `positions`: tokens that it has room for, of prompt and answer together where it is decoder-only; `bytes`: of its
    weights."""

    name: str
    kind: Kind
    bytes: int
    positions: int
    batch: int = 1
    workers: int = 1
    can_score: bool = False


def room_of(positions: int | None, context: int) -> int:
    """Tokens that are let in: as many as were asked for, no more than the model has places for, where it tells."""
    return context if positions is None else min(context, positions)


class Engine(Protocol):
    """Runs one model. An engine with `workers` above one is called from so many threads."""

    facts: EngineFacts
    tokenizer: Any

    @property
    def lost(self) -> bool:
        """Whether it ended by itself and does not come back."""
        return False

    def run(self, jobs: Sequence[Job]) -> None:
        """Write for each of `jobs`, all of one group, and finish each. An exception fails those not finished."""

    def close(self) -> None:
        """End what it started."""


class Writer:
    """Turns the tokens of one job into text, piece by piece; together the pieces are what the tokenizer decodes."""

    def __init__(self, job: Job, tokenizer: Any, ends: frozenset[int]) -> None:
        self.job = job
        self.ids: list[int] = []
        self._tokenizer = tokenizer
        self._ends = ends
        self._stream = DecodeStream(skip_special_tokens=True) if tokenizer.is_fast else None
        # Decoding each token takes time, so it is done only where somebody looks at the text on the way.
        self._watched = job.listener is not None or bool(job.stops)

    def take(self, token: int) -> bool:
        """One more token. True: write no more of this job."""
        if self.job.cancelled or token in self._ends:
            return True
        self.ids.append(token)
        return self.job.take(self._piece(token) if self._watched else "")

    def _piece(self, token: int) -> str:
        if self._stream is not None:
            return self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
        # A slow tokenizer has no stream: what all ids so far say beyond what is given, whole characters only.
        whole, given = self._whole(), self.job.text
        return whole[len(given) :] if whole.startswith(given) and not whole.endswith(_TORN) else ""

    def _whole(self) -> str:
        return str(self._tokenizer.decode(self.ids, skip_special_tokens=True))

    def rest(self) -> None:
        """Give the job what is left: a character cut short, or all of it if nobody watched."""
        whole = self._whole()
        if not self.job.stopped and whole.startswith(self.job.text):
            self.job.text = whole
