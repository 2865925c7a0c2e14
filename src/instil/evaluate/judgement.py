"""Which of two outputs do people prefer? Pairs and answers in one SQLite file, blind, for several judges at a time.

A judge sees left and right, never which system wrote what. Order and sides are drawn for each judge by the file's seed,
so they are the same when the page is opened again. The first `common` pairs come first for everybody, so that agreement
can be told even if nobody finishes; the rest come in an order of each judge's own, so that more pairs are judged.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from instil.core import publish
from instil.core.errors import ConfigError, DataError, StorageError
from instil.evaluate.outputs import ScoredOutput

Choice = Literal["left", "right", "tie"]
QUESTION = "Which text would you rather have as the answer?"
COMMON = 20
_WAIT_S = 10.0
_SCHEMA = """
create table about (question text not null, seed integer not null, common integer not null, identical integer not null);
create table pairs (
    id integer primary key, record text not null, source text not null, reference text not null,
    first text not null, second text not null, first_output text not null, second_output text not null
);
create table answers (
    pair integer not null references pairs (id), judge text not null, choice text not null, winner text,
    seconds real, remark text not null, at text not null, primary key (pair, judge)
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two systems' outputs for one record."""

    record: str
    source: str
    reference: str
    first: str
    second: str
    first_output: str
    second_output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a judge sees of a pair: nothing of who wrote it."""

    pair: int
    source: str
    reference: str
    left: str
    right: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What `judge` said of `pair`: `winner` is a system's name, None for a tie."""

    pair: int
    record: str
    first: str
    second: str
    judge: str
    choice: Choice
    winner: str | None
    seconds: float | None
    remark: str
    at: str


def pairs_of(
    columns: Mapping[str, Sequence[ScoredOutput]], first: str, second: str, *, count: int | None = None, seed: int = 0
) -> tuple[list[Pair], int]:
    """`count` pairs (all when not given) of the outputs of `first` and `second`, drawn by `seed`, and how many records
    were left out because both systems wrote the same. Raises `DataError` where the outputs are of other records."""
    ours, theirs = columns[first], columns[second]
    if [one.id for one in ours] != [one.id for one in theirs]:
        raise DataError(f"the outputs of {first} and {second} are of different records; evaluate both on the same ones")
    differing = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.output.strip() != b.output.strip()]
    drawn = random.Random(f"{seed}/pairs").sample(differing, min(count or len(differing), len(differing)))
    pairs = [
        Pair(
            record=a.id, source=a.source, reference=a.targets[0] if a.targets else "", first=first, second=second,
            first_output=a.output, second_output=b.output,
        )
        for a, b in drawn
    ]  # fmt: skip
    return pairs, len(ours) - len(differing)


@dataclass(frozen=True, slots=True)
class Judgements:
    """The file at `path`. Each call opens it anew, so threads and processes may share it."""

    path: Path

    @classmethod
    def create(
        cls, path: Path, pairs: Sequence[Pair], *, question: str = QUESTION, common: int = COMMON, seed: int = 0,
        identical: int = 0,
    ) -> Judgements:  # fmt: skip
        """A new file with `pairs`. `identical`: records whose outputs were the same, so that nobody is asked.

        Raises `ConfigError` where there is a file already, `DataError` without pairs, `StorageError` when the disk
        refuses; then there is no file.
        """
        if not pairs:
            raise DataError("there is nothing to judge: no two outputs differ; choose other systems or more records")
        if path.exists():
            raise ConfigError(f"{path}: is there already, with answers perhaps; choose another name or remove it")
        rows = [tuple(getattr(pair, name) for name in Pair.__dataclass_fields__) for pair in pairs]
        with publish.publish_file(path) as aside, cls(aside)._open(new=True) as file:
            file.execute("pragma journal_mode = memory")  # A kill then leaves one file aside, no journal.
            file.executescript(_SCHEMA)
            file.execute("insert into about values (?, ?, ?, ?)", (question, seed, common, identical))
            names = ", ".join(Pair.__dataclass_fields__)
            file.executemany(f"insert into pairs ({names}) values (?, ?, ?, ?, ?, ?, ?)", rows)
        return cls(path)

    @contextmanager
    def _open(self, *, new: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises `DataError` for a file that is none of ours, `StorageError` where SQLite fails."""
        if not new and not self.path.is_file():
            raise DataError(f"{self.path}: there is no such file; make it with instil judge new")
        try:
            with closing(sqlite3.connect(self.path, timeout=_WAIT_S)) as file, file:
                yield file
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
                raise StorageError(f"{self.path}: {error}; check the disk and its permissions") from error
            raise DataError(f"{self.path}: holds no judgements ({error}); name a file of instil judge new") from error

    @property
    def question(self) -> str:
        """What judges are asked."""
        return str(self._about()[0])

    @property
    def identical(self) -> int:
        """Records that nobody is asked about, because both outputs were the same."""
        return int(self._about()[3])

    def _about(self) -> tuple[str, int, int, int]:
        with self._open() as file:
            found = file.execute("select question, seed, common, identical from about").fetchone()
        if found is None:
            raise DataError(f"{self.path}: was not made to its end; remove it and make it again with instil judge new")
        question, seed, common, identical = found
        return question, seed, common, identical

    def pairs(self) -> dict[int, Pair]:
        """All pairs by number, with their systems' names: not for judges."""
        names = tuple(Pair.__dataclass_fields__)
        with self._open() as file:
            rows = file.execute(f"select id, {', '.join(names)} from pairs order by id").fetchall()
        return {number: Pair(**dict(zip(names, row, strict=True))) for number, *row in rows}

    def order(self, judge: str) -> list[int]:
        """The ids of all pairs as `judge` sees them. Raises `ConfigError` for a judge without a name."""
        _, seed, common, _ = self._about()
        with self._open() as file:
            ids = [number for (number,) in file.execute("select id from pairs order by id")]
        dice = random.Random(f"{seed}/order/{_name(judge)}")
        shared, own = ids[:common], ids[common:]
        dice.shuffle(shared)
        dice.shuffle(own)
        return shared + own

    def progress(self, judge: str) -> tuple[int, int]:
        """How many pairs `judge` has answered, and how many there are."""
        answered = self._answered(judge)
        return len(answered), len(self.order(judge))

    def following(self, judge: str) -> Shown | None:
        """The next pair that `judge` has not answered; None where all are."""
        answered = self._answered(judge)
        left = (number for number in self.order(judge) if number not in answered)
        number = next(left, None)
        return None if number is None else self.show(judge, number)

    def _answered(self, judge: str) -> set[int]:
        with self._open() as file:
            return {number for (number,) in file.execute("select pair from answers where judge = ?", (_name(judge),))}

    def show(self, judge: str, pair: int) -> Shown:
        """Pair number `pair` as `judge` sees it, answered or not."""
        found = self._pair(pair)
        outputs = (found.first_output, found.second_output)
        left, right = outputs if self._first_is_left(judge, pair) else outputs[::-1]
        return Shown(pair=pair, source=found.source, reference=found.reference, left=left, right=right)

    def _pair(self, number: int) -> Pair:
        found = self.pairs().get(number)
        if found is None:
            raise ConfigError(f"there is no pair {number} in {self.path}; ask for the next one")
        return found

    def _first_is_left(self, judge: str, pair: int) -> bool:
        return random.Random(f"{self._about()[1]}/side/{_name(judge)}/{pair}").random() < 0.5

    def answer(self, judge: str, pair: int, choice: Choice, *, seconds: float | None = None, remark: str = "") -> None:
        """Keep what `judge` said; a second answer to the same pair replaces the first. `seconds`: how long it took."""
        if choice not in get_args(Choice):
            raise ConfigError(f"an answer is {choice!r}; choose one of {', '.join(get_args(Choice))}")
        found, judge = self._pair(pair), _name(judge)
        systems = (found.first, found.second)
        left, right = systems if self._first_is_left(judge, pair) else systems[::-1]
        winner = {"left": left, "right": right, "tie": None}[choice]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._open() as file:
            file.execute(
                "insert or replace into answers values (?, ?, ?, ?, ?, ?, ?)",
                (pair, judge, choice, winner, seconds, remark, now),
            )

    def answers(self) -> list[Answer]:
        """All answers so far, by time."""
        names = tuple(Answer.__dataclass_fields__)
        with self._open() as file:
            rows = file.execute(
                f"select {', '.join(names)} from answers join pairs on pairs.id = answers.pair order by at, judge, pair"
            ).fetchall()
        return [Answer(**dict(zip(names, row, strict=True))) for row in rows]


def _name(judge: str) -> str:
    if not judge.strip():
        raise ConfigError("a judge needs a name, so that answers can be told apart; type one")
    return judge.strip()
