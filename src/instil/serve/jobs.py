"""A job: one prompt on its way through the queue and an engine, with the text as it comes out.

Engines run in threads of their own and tell the job what they wrote; whoever waits has the job's future, and hears of
each piece of text on the way if it wishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from instil.core.errors import InstilError

Ended = Literal["stop", "length"]
Listener = Callable[[str], None]
"""Hears a piece of text, in the engine's thread."""


class ServeError(InstilError):
    """A request that is not answered as it asked. `status` is HTTP's code."""

    def __init__(self, message: str, status: int = 400, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: the likeliest at temperature 0, else drawn; `seed` makes that repeatable."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        """The same prompt gives the same text, so an answer may be kept."""
        return self.temperature == 0

    def after(self, number: int) -> Sampling:
        """The sampling of a further answer to the same prompt."""
        return self if self.seed is None or not number else replace(self, seed=self.seed + number)


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token, its natural log probability after all before it (None for the first), and the likeliest tokens there."""

    text: str
    logprob: float | None
    top: dict[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a job."""

    text: str
    ended: Ended
    prompt_tokens: int
    new_tokens: int
    scores: tuple[TokenScore, ...] = ()
    waited_s: float = 0.0
    first_s: float = 0.0
    whole_s: float = 0.0
    cached: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """One prompt as token ids, what is asked of it, and what is written so far.

    `scores`: the number of likeliest tokens wanted beside each token's own probability, None for no probabilities;
    `echo` wants those of the prompt too. `fresh`: not from the cache. `priority`: lower goes first. `deadline`: of the
    monotonic clock.
    """

    ids: list[int]
    limit: int
    sampling: Sampling = Sampling()
    stops: tuple[str, ...] = ()
    scores: int | None = None
    echo: bool = False
    priority: int = 0
    deadline: float = float("inf")
    listener: Listener | None = None
    fresh: bool = False
    future: Future[Answer] = field(default_factory=Future)
    text: str = ""
    new_tokens: int = 0
    cancelled: bool = False
    made: float = field(default_factory=time.monotonic)
    _told: int = 0
    _ended: Ended | None = None
    _started: float = 0.0
    _first: float = 0.0

    @property
    def group(self) -> Hashable:
        """Jobs of one group may share a batch: they are searched alike. A seeded one is alone, or it could not be
        repeated."""
        return id(self) if self.sampling.seed is not None else (self.sampling, self.scores is not None)

    @property
    def stopped(self) -> bool:
        """Whether it ended at one of its `stops`."""
        return self._ended == "stop"

    def start(self) -> bool:
        """An engine has taken it. False: nobody waits for it any more. From here on its future cannot be cancelled,
        so that whoever ends it is the engine alone."""
        self._started = time.monotonic()
        return self.future.set_running_or_notify_cancel()

    def again(self) -> None:
        """Begin anew after a failure. What was told of a greedy text is not told again. Raises `ServeError` where part
        of a drawn text was told: another one would not go on from it."""
        heard = self._told if self.listener is not None else 0
        if heard and not self.sampling.greedy:
            raise ServeError("the engine failed within a text that was drawn; ask again", 503, retry_after=1)
        self.text, self.new_tokens, self._ended, self._told = "", 0, None, heard

    def take(self, text: str, tokens: int = 1) -> bool:
        """The engine has written `text` with `tokens` more tokens. True: it shall stop."""
        if self._ended is not None:
            return True
        if not self.new_tokens:
            self._first = time.monotonic()
        self.text += text
        self.new_tokens += tokens
        at = min((place for stop in self.stops if (place := self.text.find(stop, self._told)) >= 0), default=-1)
        if at >= 0:
            self.text, self._ended = self.text[:at], "stop"
        elif self.new_tokens >= self.limit:
            self._ended = "length"
        self._tell(len(self.text) if self._ended else self._safe())
        return self._ended is not None or self.cancelled

    def told(self, tokens: int, ended: Ended) -> None:
        """The engine's own count of all tokens, and why it ended, where one of `stops` did not end the text."""
        self.new_tokens = tokens
        if not self.stopped:
            self._ended = ended

    def _safe(self) -> int:
        """How much of the text cannot be the beginning of a stop any more."""
        longest = max((len(stop) for stop in self.stops), default=1)
        return max(self._told, len(self.text) - longest + 1)

    def _tell(self, until: int) -> None:
        if self.listener is not None and until > self._told:
            self.listener(self.text[self._told : until])
        self._told = max(until, self._told)

    def finish(self, scores: tuple[TokenScore, ...] = ()) -> None:
        """Nothing more comes. An end that `take` did not see was the model's own end token."""
        self._tell(len(self.text))
        now = time.monotonic()
        answer = Answer(
            self.text, self._ended or "stop", len(self.ids), self.new_tokens, scores, self._started - self.made,
            (self._first or now) - self.made, now - self.made,
        )  # fmt: skip
        if not self.future.done():
            self.future.set_result(answer)

    def answer(self, known: Answer) -> None:
        """Somebody asked the same before."""
        if self.listener is not None and known.text:
            self.listener(known.text)
        self.future.set_result(known)

    def fail(self, error: BaseException) -> None:
        """It will not be answered."""
        with suppress(InvalidStateError):  # Who waited for it may give it up at the same moment.
            self.future.set_exception(error)

    def cancel(self) -> None:
        """Nobody waits for it any more: the engine stops at the next token, the queue skips it."""
        self.cancelled = True
