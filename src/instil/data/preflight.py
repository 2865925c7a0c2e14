"""Checks of the `data` section: what it names is there, and, once it is read, what its records are like.

Of many records the first few thousand are looked at; the checks of single texts are in text_checks.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instil.core.problems import Problem, fail, graded, warn
from instil.data import hub, text_checks
from instil.data.account import Account, SplitAccount
from instil.data.clean import source_key
from instil.data.columns import layout, record_of
from instil.data.config import DataConfig, Places
from instil.data.leakage import HeldOut
from instil.data.order import one_sided
from instil.data.problems import BadData
from instil.data.records import HELD_OUT, MAIN_TASK, SPLIT_NAMES, Record, SplitName, Splits
from instil.data.sources import Origin, open_origin, plan
from instil.data.tokens import Truncation

LOOKED_AT = 5000
"""Most records whose texts are read for what should not be in them."""
_FEW = 100
_DUPLICATES, _LEAKED, _EMPTY = 0.2, 0.05, 0.1
_SOURCES_CUT, _TARGETS_CUT, _MOST_TARGETS_CUT = 0.1, 0.02, 0.5


def preflight(config: DataConfig, base: Path) -> list[Problem]:
    """Everything wrong that the first record of each file shows. Changes nothing and asks no hub."""
    return [problem for task in config.tasks.values() for problem in _problems(task, base)]


def _problems(config: Places, base: Path) -> list[Problem]:
    problems: list[Problem] = []
    roles = ("source", *SPLIT_NAMES)
    for role in roles:
        place = getattr(config, role)
        if place is None:
            continue
        if hub.is_hub(place):
            problems += _hub_problems(place)
            continue
        alone = config.model_copy(update={other: None for other in roles if other != role})
        try:
            origins = plan(alone, base).origins
        except BadData as error:
            problems.append(error.problem)
        else:
            problems += [problem for origin in origins if (problem := _first_problem(origin, config)) is not None]
    return problems


def _hub_problems(place: str) -> list[Problem]:
    if importlib.util.find_spec("datasets") is None:
        remedy = "install it with: pip install datasets"
        return [fail("data-unusable", "needs the library datasets", remedy, where=place)]
    return []


def _first_problem(origin: Origin, config: Places) -> Problem | None:
    try:
        table = open_origin(origin, config)
        columns = layout(config.columns, table)
        number, row = next(table.rows)
        record_of(row, table.place(number), columns)
    except BadData as error:
        return error.problem
    return None


@dataclass(frozen=True, slots=True)
class Examination:
    """The students are examined on the first `items` records of `task` in `split`, all where it is None."""

    split: SplitName
    items: int | None = None
    task: str = MAIN_TASK

    def __str__(self) -> str:
        return f"{self.split} records of the examination{_of(self.task)}"


def _of(task: str) -> str:
    return "" if task == MAIN_TASK else f" of task {task!r}"


def records_problems(
    splits: Splits, account: Account, config: DataConfig, *, examined: Sequence[Examination]
) -> list[Problem]:
    """What the records are like that are left after cleaning, and what cleaning took away."""
    train = splits["train"][:LOOKED_AT]
    return [
        *sizes(splits, examined),
        *sorted_records(splits, account, examined),
        *duplicates(account.splits["train"], train),
        *leakage(splits, account.splits["train"], config),
        *empty_targets(account.splits["train"]),
        *text_checks.problems(train),
    ]


def not_held_out(splits: Splits, split: SplitName, task: str = MAIN_TASK) -> Problem | None:
    """What to say where `split` has no record of `task` to examine anybody on. A further task cuts none unless told."""
    if any(record.task == task for record in splits[split]):
        return None
    remedy = f"raise data.{split}_share, or name records with data.{split}"
    if task != MAIN_TASK:
        remedy = f"set its {split}_share in data.also, or name records with its {split}"
    return fail("examination-empty", f"there is no {split} record{_of(task)} to examine the students on", remedy)


def sizes(splits: Splits, examined: Sequence[Examination]) -> list[Problem]:
    """Splits that are too small for what they are there for."""
    missing = (not_held_out(splits, each.split, each.task) for each in examined)
    found = [problem for problem in missing if problem]
    if not splits["validation"] and all(splits[each.split] for each in examined):
        remedy = "raise data.validation_share, or name records with data.validation"
        found.append(warn("validation-empty", "there are no validation records to compare the models on", remedy))
    if (count := len(splits["train"])) < _FEW:
        remedy = "give more records; instil labels any source, labels.targets: teacher writes targets for them"
        found.append(warn("records-few", f"{count:,} training records are few to learn from", remedy))
    return found


def sorted_records(splits: Splits, account: Account, examined: Sequence[Examination]) -> list[Problem]:
    """Beginnings of a split, taken for the whole, that are of another kind than the rest."""
    told = {f"the first {each.kept:,} {name} records": each.one_sided for name, each in account.splits.items()}
    for each in examined:
        held_out = [record for record in splits[each.split] if record.task == each.task]
        if each.items is not None:
            told[f"the {each.items:,} {each}"] = one_sided(held_out[: each.items], held_out[each.items :])
    remedy = "set data.order: mixed"
    return [
        warn("records-sorted", f"{which} are unlike the others", remedy, evidence=evidence)
        for which, evidence in told.items()
        if evidence
    ]


def duplicates(account: SplitAccount, train: list[Record]) -> list[Problem]:
    """Sources that stand several times, dropped or not."""
    dropped = account.dropped.get("exact duplicate", 0) + account.dropped.get("near duplicate", 0)
    again = len(train) - len({source_key(record.source) for record in train})
    if again:
        evidence = f"{again:,} of {len(train):,} sources repeat an earlier one"
        remedy = "leave data.clean.exact_duplicates on"
        return [
            warn("duplicates-kept", "training records stand several times and weigh more", remedy, evidence=evidence)
        ]
    if dropped <= _DUPLICATES * account.read:
        return []
    evidence = f"{dropped:,} of {account.read:,} training records repeat an earlier one and are dropped"
    remedy = "look at how the file was made; several targets of one source belong into data.columns.targets"
    return [warn("duplicates-many", "much of the training data is the same", remedy, evidence=evidence)]


def leakage(splits: Splits, account: SplitAccount, config: DataConfig) -> list[Problem]:
    """Training records that stand in a held-out split: those that stay make every score too good."""
    kept = account.leaks_kept
    if config.clean.leakage == "off":
        held_out = HeldOut([record.source for name in HELD_OUT for record in splits[name]], config.clean.leakage_ngram)
        kept = int(held_out.exact([record.source for record in splits["train"]]).sum())
    if kept:
        evidence = f"{kept:,} of {account.kept:,} training records stand in validation or test too"
        remedy = "set data.clean.leakage: remove"
        return [warn("leakage-kept", "the scores will be too good to be true", remedy, evidence=evidence)]
    dropped = account.dropped.get("leaked exact", 0) + account.dropped.get("leaked n-gram", 0)
    if dropped <= _LEAKED * account.read:
        return []
    evidence = f"{dropped:,} of {account.read:,} training records overlap validation or test and are dropped"
    remedy = "split by document before the records are made, or give other held-out records"
    return [warn("leakage-dropped", "training and held-out records are much alike", remedy, evidence=evidence)]


def empty_targets(account: SplitAccount) -> list[Problem]:
    """Records without an answer, which cleaning drops."""
    empty = account.dropped.get("empty target", 0)
    if empty <= _EMPTY * account.read:
        return []
    evidence = f"{empty:,} of {account.read:,} training records, which are dropped"
    remedy = "check data.columns.target, or let the teacher write them: labels.targets: teacher"
    return [warn("targets-empty", "many targets are empty", remedy, evidence=evidence)]


def truncation(cut: Truncation) -> list[Problem]:
    """What the limits cut off."""
    found = []
    count = max(cut.examples, 1)
    if cut.sources > _SOURCES_CUT * count:
        evidence = f"{cut.sources:,} of {cut.examples:,} sources lose their end"
        remedy = "raise limits.source, or leave it where the beginning says enough"
        found.append(warn("sources-cut", "many sources are longer than limits.source", remedy, evidence=evidence))
    if grade := graded(cut.targets / count, warns=_TARGETS_CUT, fails=_MOST_TARGETS_CUT):
        evidence = (
            f"{cut.targets:,} of {cut.examples:,} targets lose their end, and a student of them never learns to stop"
        )
        found.append(
            Problem(
                grade=grade, code="targets-cut", what="targets are longer than limits.target", evidence=evidence,
                remedy="raise limits.target, and evaluate.max_new_tokens with it",
            )
        )  # fmt: skip
    return found
