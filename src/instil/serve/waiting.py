"""The queue before an engine: bounded, by priority, with deadlines; it deals batches of jobs that may run together."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Sequence

from instil.serve.jobs import Job, ServeError

_REMEMBERED = 64
_LATELY_S = 60
"""How far back the pace is looked at, and the longest that anyone is told to wait."""
_LONGEST_GATHERING = 8
"""A batch is closed after so many quiet times even where jobs keep coming."""
_PATIENCE = 0.1
"""For this share of the time that the last batch took, those whom it answered are awaited."""


class WaitingRoom:
    """Jobs that wait. `size`: how many may. All methods may be called from any thread."""

    def __init__(self, size: int, *, gather_s: float = 0.0) -> None:
        self.size = size
        self.gather_s = gather_s
        self.expired = 0
        self._heap: list[tuple[int, int, Job]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._left: deque[float] = deque(maxlen=_REMEMBERED)
        self._arrived = 0.0
        self._dealt = 0
        self._dealt_at = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, jobs: Sequence[Job]) -> None:
        """All of `jobs` wait from now on, or none: `ServeError` 429 with the seconds after which to try again."""
        with self._changed:
            if self._closed:
                raise ServeError("the server is about to end; send it to another one", 503, retry_after=5)
            if len(self._heap) + len(jobs) > self.size:
                self._drop_expired()
            if len(self._heap) + len(jobs) > self.size:
                raise self._full(len(jobs))
            self._arrived = time.monotonic()
            for job in jobs:
                heapq.heappush(self._heap, (job.priority, next(self._order), job))
            self._changed.notify_all()

    def _full(self, wanted: int) -> ServeError:
        if wanted > self.size:
            return ServeError(f"{wanted} prompts at once, but only {self.size} may wait; send fewer in one request")
        after = self.seconds_for(len(self._heap))
        return ServeError(f"{len(self._heap)} prompts wait already; try again in {after} s", 429, retry_after=after)

    def seconds_for(self, jobs: int) -> int:
        """Whole seconds in which so many jobs would leave at the pace of the last ones; 1 while that is unknown."""
        if not self._left:
            return 1
        since = time.monotonic() - _LATELY_S
        lately = [left for left in self._left if left > since]
        if not lately:
            return _LATELY_S  # What is under way has been so for longer than that.
        pace = (time.monotonic() - lately[0]) / len(lately)
        return max(1, min(_LATELY_S, math.ceil(pace * jobs)))

    def take(self, most: int) -> list[Job]:
        """Up to `most` jobs that may share a batch, the first in line among them; waits for one, and a moment for
        others that are on their way. An empty list: the room is closed and empty."""
        with self._changed:
            freed = time.monotonic()
            expected = len(self._heap) + self._dealt
            back_by = freed + _PATIENCE * (freed - self._dealt_at) if self.gather_s else 0.0
            while True:
                self._drop_expired()
                if self._heap:
                    self._gather(most, expected, back_by)
                    if jobs := self._deal(most):
                        return jobs
                elif self._closed:
                    return []
                else:
                    self._changed.wait()

    def _gather(self, most: int, expected: int, back_by: float) -> None:
        """Sleeps until enough wait, or none has come for `gather_s`: a batch of one costs nearly what a batch of
        sixteen costs. Clients whose last batch ended together come back together; until `back_by` they are awaited, so
        many that `expected` wait. Without that, groups of clients would take turns for ever, with a part of a batch
        each."""
        until = max(time.monotonic() + _LONGEST_GATHERING * self.gather_s, back_by)
        while len(self._heap) < most and not self._closed:
            quiet = self._arrived + self.gather_s
            if len(self._heap) < expected:
                quiet = max(quiet, back_by)
            if (left := min(quiet, until) - time.monotonic()) <= 0:
                return
            self._changed.wait(left)

    def _deal(self, most: int) -> list[Job]:
        self._drop_expired()
        if not self._heap:
            return []
        group = self._heap[0][2].group
        chosen: list[Job] = []
        others = []
        while self._heap and len(chosen) < most:
            entry = heapq.heappop(self._heap)
            if entry[2].group == group:
                chosen.append(entry[2])
            else:
                others.append(entry)
        for entry in others:
            heapq.heappush(self._heap, entry)
        self._dealt, self._dealt_at = len(chosen), time.monotonic()
        self._left.extend([self._dealt_at] * len(chosen))
        return chosen

    def expire(self) -> None:
        """Tell those whose deadline has passed, though no engine asks for work."""
        with self._changed:
            self._drop_expired()

    def _drop_expired(self) -> None:
        now = time.monotonic()
        if all(job.deadline > now and not job.cancelled for _, _, job in self._heap):
            return
        late = [job for _, _, job in self._heap if job.deadline <= now or job.cancelled]
        self._heap = [entry for entry in self._heap if entry[2].deadline > now and not entry[2].cancelled]
        heapq.heapify(self._heap)
        for job in late:
            self.expired += not job.cancelled
            job.fail(ServeError("the deadline passed before an engine was free; allow more time or send less", 504))

    def close(self) -> None:
        """Nobody may come in; who is in is still served."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
