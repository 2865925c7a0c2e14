"""Answers that were given before: for exactly the same greedy request, least recently used ones go first."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace

from instil.serve.jobs import Answer, Job


def key_of(job: Job) -> Hashable | None:
    """What two requests must share to get one answer; None for one that must be computed: sampled, or scored."""
    if not job.sampling.greedy or job.scores is not None:
        return None
    return tuple(job.ids), job.limit, job.stops


class AnswerCache:
    """At most `most_bytes` of keys and texts. Safe in any thread."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.hits = 0
        self.bytes = 0
        self._kept: OrderedDict[Hashable, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Answer | None:
        """The answer kept under `key`, marked as cached."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            self.hits += 1
        return replace(found, cached=True, waited_s=0.0, first_s=0.0, whole_s=0.0)

    def put(self, key: Hashable, answer: Answer) -> None:
        """Keep `answer`; one that alone is larger than the cache is not kept."""
        size = _size(key, answer)
        if size > self.most_bytes:
            return
        with self._lock:
            if (old := self._kept.pop(key, None)) is not None:
                self.bytes -= _size(key, old)
            self._kept[key] = answer
            self.bytes += size
            while self.bytes > self.most_bytes:
                gone, what = self._kept.popitem(last=False)
                self.bytes -= _size(gone, what)


_OVERHEAD = 500
"""Bytes that the objects around an entry take, about."""


def _size(key: Hashable, answer: Answer) -> int:
    return _OVERHEAD + sys.getsizeof(answer.text) + _size_of_key(key)


def _size_of_key(part: Hashable) -> int:
    return sys.getsizeof(part) + (sum(map(_size_of_key, part)) if isinstance(part, tuple) else 0)
