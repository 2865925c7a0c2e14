"""Cleaning, in two steps: each record as it is read, then the records of a split among themselves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from instil.data.account import Reason
from instil.data.config import CleanConfig
from instil.data.duplicates import near_duplicates
from instil.data.leakage import HeldOut
from instil.data.problems import BadData, brief
from instil.data.records import Record

Heard = Callable[[int, str], None]
"""Called with how many records are through and what is being done."""


def source_key(source: str) -> bytes:
    """16 bytes that stand for `source`, whatever its white space; equal sources, equal keys."""
    return hashlib.blake2b(" ".join(source.split()).encode(), digest_size=16).digest()


def unfit(record: Record, config: CleanConfig) -> Reason | None:
    """Why `record` cannot be used by itself; None for a good one. Every target must be within the bounds."""
    if not record.source:
        return "empty source"
    if not record.targets:
        return "empty target"
    words = len(record.source.split())
    target_words = [len(target.split()) for target in record.targets]
    if words < config.min_source_words or min(target_words) < config.min_target_words:
        return "too short"
    longest, longest_target = config.max_source_words, config.max_target_words
    if (longest and words > longest) or (longest_target and max(target_words) > longest_target):
        return "too long"
    return None


class Gate:
    """Lets the records of one split in, one by one, and counts what it refuses."""

    def __init__(self, config: CleanConfig) -> None:
        self.records: list[Record] = []
        self.read = 0
        self.dropped: Counter[Reason] = Counter()
        self._config = config
        self._seen: set[bytes] = set()
        self._key_of_id: dict[str, bytes] = {}

    @property
    def sources(self) -> int:
        """How many different sources were let in."""
        return len(self._seen)

    def offer(self, record: Record, key: bytes, where: str) -> None:
        """`key` is the record's `source_key`; a missing id is made from the content.

        Raises `BadData` for an id that another record has, unless this one repeats it as a whole.
        """
        self.read += 1
        repeated = self._config.exact_duplicates and key in self._seen
        if record.id:
            self._check_id(record.id, key, where, repeated=repeated)
        if reason := unfit(record, self._config) or ("exact duplicate" if repeated else None):
            self.dropped[reason] += 1
            return
        self._seen.add(key)
        self.records.append(record if record.id else self._with_made_id(record, key))

    def _check_id(self, name: str, key: bytes, where: str, *, repeated: bool) -> None:
        other = self._key_of_id.get(name)
        if other is not None and not (repeated and other == key):
            remedy = "make ids unique, or set data.columns.id to null to have them made from the content"
            raise BadData(where, f"id {brief(name)} stands here a second time", remedy)
        self._key_of_id[name] = key

    def _with_made_id(self, record: Record, key: bytes) -> Record:
        content = json.dumps([record.source, record.targets]).encode()
        made = name = hashlib.blake2b(content, digest_size=8).hexdigest()
        count = 1
        while name in self._key_of_id:
            count += 1
            name = f"{made}-{count}"
        self._key_of_id[name] = key
        return replace(record, id=name)


Dropped = list[Reason | None]


def judge(
    records: Sequence[Record], config: CleanConfig, held_out: HeldOut | None, heard: Heard | None = None
) -> Dropped:
    """For each of `records` why it must go, or None. `held_out`: what training records must not overlap.

    With `config.leakage` "warn", leaks are named here as well; the caller decides to keep them.
    """
    reasons: Dropped = [None] * len(records)
    sources = [record.source for record in records]
    if held_out is not None and config.leakage != "off":
        share = held_out.share(sources, heard and (lambda done: heard(done, "looking for leakage")))
        for index, (exact, part) in enumerate(zip(held_out.exact(sources), share, strict=True)):
            if exact or part > config.leakage_share:
                reasons[index] = "leaked exact" if exact else "leaked n-gram"
    if config.near_duplicates is not None:
        left = [index for index, reason in enumerate(reasons) if reason is None or config.leakage == "warn"]
        found = near_duplicates(
            [sources[index] for index in left],
            config.near_duplicates,
            heard and (lambda done: heard(done, "looking for near duplicates")),
        )
        for place in found:
            reasons[left[place]] = "near duplicate"
    return reasons
