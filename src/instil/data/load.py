"""From a recipe's `data` section to clean splits with an account of what was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from instil.core.console import Advance
from instil.data.account import Account, Reason, SplitAccount
from instil.data.clean import Gate, Heard, judge, source_key
from instil.data.columns import layout, record_of
from instil.data.config import CleanConfig, DataConfig, Places
from instil.data.leakage import HeldOut
from instil.data.order import mixed, one_sided
from instil.data.problems import BadData
from instil.data.records import HELD_OUT, MAIN_TASK, SPLIT_NAMES, Record, SplitName, Splits
from instil.data.sources import Origin, Plan, open_origin, plan
from instil.data.tables import Table

_HEARD_EVERY = 1000


def load_splits(config: DataConfig, *, base: Path, advance: Advance | None = None) -> tuple[Splits, Account]:
    """Read, clean and split what `config` names; paths are relative to `base`.

    Each split is cleaned for itself, and training records that overlap a held-out split are removed. `advance` hears
    the number of records through the current step. The same files and `config` give the same splits, and records
    added at the end of a file move no other record to another split.
    Raises `BadData`, a `DataError`, that names the file and line of the first defect.
    """
    readings = {name: _Reading(task, plan(task, base), advance) for name, task in config.tasks.items()}
    gates = {name: reading.gates() for name, reading in readings.items()}
    # Of all tasks: what one is examined on may not be another's lesson.
    held_sources = [record.source for gate in gates.values() for name in HELD_OUT for record in gate[name].records]
    held_out = cache(lambda ngram: HeldOut(held_sources, ngram))
    splits: Splits = {name: [] for name in SPLIT_NAMES}
    account: dict[str, SplitAccount] = {}
    notes: list[str] = []
    for name, task in config.tasks.items():
        check_leaks = task.clean.leakage != "off" and bool(held_sources)
        against = held_out(task.clean.leakage_ngram) if check_leaks else None
        found, accounts = _clean(task, gates[name], against, advance)
        drawn = _drawn(gates[name], readings[name].plan)
        _check_not_empty(accounts, readings[name].plan, task, drawn)
        _separate_ids(found)
        for split, records in found.items():
            splits[split] += [_of_task(record, name, task.prefix) for record in records]
        suffix = "" if name == MAIN_TASK else f" of {name}"
        account |= {f"{split}{suffix}": each for split, each in accounts.items() if each.read or not suffix}
        notes += [f"{note}{suffix}" for note in _notes(accounts, readings[name].plan, task, drawn)]
    return splits, Account(account, tuple(notes))


def _clean(
    task: Places, gates: Mapping[SplitName, Gate], held_out: HeldOut | None, advance: Advance | None
) -> tuple[Splits, dict[str, SplitAccount]]:
    """The good records of one task, and what was dropped."""
    splits: Splits = {}
    accounts: dict[str, SplitAccount] = {}
    for name in SPLIT_NAMES:
        heard = _heard(advance, f"{name}: ")
        against = held_out if name == "train" else None
        records = gates[name].records if task.order == "given" else mixed(gates[name].records)
        chosen = _choose(records, task.clean, task.limit.of(name), against, heard)
        dropped = gates[name].dropped + chosen.dropped
        told = one_sided(chosen.records, chosen.over_limit)
        accounts[name] = SplitAccount(gates[name].read, len(chosen.records), dict(dropped), chosen.leaks_kept, told)
        splits[name] = chosen.records
    return splits, accounts


def _of_task(record: Record, task: str, prefix: str) -> Record:
    """`record` as the model meets it among several tasks; ids of different tasks may be the same."""
    own = record.id if task == MAIN_TASK else f"{task}/{record.id}"
    return replace(record, id=own, source=prefix + record.source, task=task)


def _heard(advance: Advance | None, prefix: str) -> Heard | None:
    return None if advance is None else lambda done, what: advance(done, prefix + what)


class _Reading:
    """One pass over all origins."""

    def __init__(self, config: Places, plan: Plan, advance: Advance | None) -> None:
        self.plan = plan
        self._config = config
        self._advance = advance
        self._gates = {name: Gate(config.clean) for name in SPLIT_NAMES}
        self._cut = {name: config.share_of(name) for name in HELD_OUT if name not in plan.given}
        self._read = 0

    def gates(self) -> dict[SplitName, Gate]:
        for origin in self.plan.origins:
            self._read_table(origin, open_origin(origin, self._config))
        return self._gates

    def _read_table(self, origin: Origin, table: Table) -> None:
        columns = layout(self._config.columns, table)
        filled = {columns.source: False, ", ".join(columns.targets): False}
        for number, row in table.rows:
            where = table.place(number)
            record = record_of(row, where, columns)
            key = source_key(record.source)
            self._gates[self._split(origin, key)].offer(record, key, where)
            filled[columns.source] |= bool(record.source)
            filled[", ".join(columns.targets)] |= bool(record.targets)
            self._count(table.name)
        for column, some in filled.items():
            if not some:
                remedy = "name the right columns in data.columns, or fill it"
                raise BadData(table.name, f"column {column!r} is empty in every record", remedy)

    def _split(self, origin: Origin, key: bytes) -> SplitName:
        return cut(key, self._cut) if origin.split == "train" else origin.split

    def _count(self, name: str) -> None:
        self._read += 1
        if self._advance and self._read % _HEARD_EVERY == 0:
            self._advance(self._read, f"reading {name}")


def cut(key: bytes, shares: dict[SplitName, float]) -> SplitName:
    """The split of the source with `key`, when `shares` of all are cut off; depends on nothing else."""
    place = int.from_bytes(key[:8], "big") / 2**64
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return "train"


@dataclass(frozen=True, slots=True)
class _Chosen:
    records: list[Record]
    over_limit: list[Record]
    dropped: Counter[Reason]
    leaks_kept: int


def _choose(
    records: list[Record], config: CleanConfig, limit: int | None, held_out: HeldOut | None, heard: Heard | None
) -> _Chosen:
    """The first `limit` good ones of `records`. What a record's fate is depends on earlier ones only, so no more of
    a long list is judged than the limit needs."""
    size = len(records) if limit is None else limit + limit // 8 + 64
    while True:
        reasons = judge(records[:size], config, held_out, heard)
        good = [index for index, reason in enumerate(reasons) if reason is None or _only_warned(reason, config)]
        if size >= len(records) or limit is None or len(good) >= limit:
            break
        size *= 2
    good = good[:limit]
    end = len(records) if limit is None or len(good) < limit else good[-1] + 1
    leaks = sum(reasons[index] is not None for index in good)
    dropped = Counter(reason for reason in reasons[:end] if reason is not None and not _only_warned(reason, config))
    dropped["over limit"] = len(records) - end
    return _Chosen([records[index] for index in good], records[end:], +dropped, leaks)


def _only_warned(reason: Reason, config: CleanConfig) -> bool:
    return config.leakage == "warn" and reason in ("leaked exact", "leaked n-gram")


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The records that splits are drawn from by their sources, and how many different sources they have."""

    records: int
    sources: int

    def __str__(self) -> str:
        if self.sources == self.records:
            return f"{self.records:,} records"
        sources = "one and the same source" if self.sources == 1 else f"{self.sources:,} different sources"
        return f"{self.records:,} records with {sources}"


def _drawn(gates: Mapping[SplitName, Gate], plan: Plan) -> _Drawn:
    found = [gate for name, gate in gates.items() if name not in plan.given or name == "train"]
    return _Drawn(sum(gate.read for gate in found), sum(gate.sources for gate in found))


_BY_SOURCE = "a split is drawn by the source"


def _check_not_empty(accounts: dict[str, SplitAccount], plan: Plan, config: Places, drawn: _Drawn) -> None:
    for name, account in accounts.items():
        if account.kept == 0 and (name == "train" or name in plan.given):
            place = getattr(config, name) or config.source or config.train
            what = f"no records are left: {account.line()}"
            remedy = "loosen data.clean" if account.dropped else "lower validation_share and test_share, or add records"
            if name == "train" and not account.read and drawn.records:
                what = f"no records are left of {drawn}; {_BY_SOURCE}"
            if any(reason.startswith("leaked") for reason in account.dropped):
                remedy = "give other held-out records, or set data.clean.leakage to warn"
            raise BadData(f"{place} ({name})", what, remedy)


def _separate_ids(splits: Splits) -> None:
    """Files that each count from 0 share ids: put the split's name before them all in a later one."""
    taken: set[str] = set()
    for name, records in splits.items():
        if any(record.id in taken for record in records):
            splits[name] = [replace(record, id=f"{name}/{record.id}") for record in records]
        taken.update(record.id for record in splits[name])


def _notes(accounts: dict[str, SplitAccount], plan: Plan, config: Places, drawn: _Drawn) -> list[str]:
    notes = list(plan.notes)
    for name in HELD_OUT:
        if name not in plan.given and accounts[name].kept == 0 and config.share_of(name) > 0:
            few, remedy = f"{name} is empty: {drawn} are too few", f"raise data.{name}_share"
            if drawn.sources < drawn.records:
                few, remedy = f"{few} ({_BY_SOURCE})", f"{remedy}, or name records with data.{name}"
            notes.append(f"{few}; {remedy}")
    for split, account in accounts.items():
        if account.one_sided:
            first = f"the {account.kept:,} {split} records within the limit are unlike the others"
            notes.append(f"{first}: {account.one_sided}; set data.order: mixed")
    train = accounts["train"]
    if train.leaks_kept:
        notes.append(f"{train.leaks_kept:,} train records overlap validation or test and stayed: leakage is 'warn'")
    leaked = sum(count for reason, count in train.dropped.items() if reason.startswith("leaked"))
    if leaked > train.read / 2:
        notes.append("more than half of train was dropped as leaked; is there a long text that all records share?")
    return notes
