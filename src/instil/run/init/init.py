"""`instil init`: a commented recipe for the user's own file, after a few questions or from flags."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import yaml

from instil.core import publish
from instil.core.config import parse
from instil.core.errors import ConfigError, storage_error
from instil.data.preflight import preflight
from instil.models.wheels import PREFIX, find_wheel
from instil.run.init.answers import QUESTIONS, InitAnswers, ask, check_all, guess, prompt
from instil.run.init.data import Seen, inspect_data
from instil.run.init.template import MOST_SOURCE, MOST_TARGET, base_of, draft_recipe, train_limit
from instil.run.recipe import Recipe

__all__ = ["InitAnswers", "InitResult", "Seen", "ask", "draft_recipe", "init_command", "inspect_data"]

FEW_PAIRS = 20


@dataclass(frozen=True, slots=True)
class InitResult:
    """The recipe's place, the command to type next, and what the user should know, a line each."""

    path: Path
    next_command: str
    remarks: tuple[str, ...]


def init_command(
    data: Path | None,
    *,
    out: Path,
    source: str | None = None,
    target: str | None = None,
    task: str | None = None,
    teacher: str | None = None,
    minutes: float | None = None,
    name: str | None = None,
    force: bool = False,
    yes: bool = False,
) -> InitResult:
    """Write a recipe for `data` to `out`. What is not given is asked for on a terminal, unless `yes`, else guessed.

    An existing file at `out` is refused; with `force` it is kept under another name.
    Raises `ConfigError` for wrong options, `BadData` for data that cannot be used.
    """
    _require_free(out, force)
    may_ask = sys.stdin.isatty() and not yes
    data = data or _ask_for_data(may_ask)
    seen = inspect_data(data)
    given = {"source": source, "target": target, "task": task, "teacher": teacher, "minutes": minutes, "name": name}
    flags = check_all(seen, given)
    answers = guess(data, seen, flags, partly=may_ask)
    if may_ask and len(flags) < len(QUESTIONS):
        answers = ask(seen, answers, skip=flags)
    _require_usable(answers, seen)
    text = draft_recipe(answers, seen)
    _require_readable(text, out)
    remarks = _remarks(answers, seen, guessed=not may_ask and not {"source", "target"} <= set(flags))
    if kept := _keep_old(out, text):
        remarks.append(f"the recipe that was there is kept as {kept}")
    publish.write_text(out, text)
    return InitResult(out, f"instil run {shlex.quote(str(out))}", tuple(remarks))


def _ask_for_data(may_ask: bool) -> Path:
    if not may_ask:
        raise ConfigError("no data file; give it, for example: instil init pairs.jsonl")
    while not (path := prompt("Your file of pairs (JSONL, CSV or Parquet)")):
        pass
    return Path(path)


def _require_free(out: Path, force: bool) -> None:
    if out.is_dir():
        raise ConfigError(f"--out {out}: a folder; give the file to write, for example {out / 'recipe.yaml'}")
    if out.exists() and not force:
        raise ConfigError(f"{out}: is there already; give another place with --out, or replace it with --force")


def _require_usable(answers: InitAnswers, seen: Seen) -> None:
    if answers.source == answers.target:
        raise ConfigError(f"source and target are both column {answers.source!r}; name two with --source and --target")
    for option in ("source", "target"):
        name = getattr(answers, option)
        if seen.column(name).filled == 0:
            raise ConfigError(f"{seen.place}: column {name!r} holds no text; name another with --{option}")


def _require_readable(text: str, out: Path) -> None:
    """What is written can be run: the recipe reads, and so does the first record."""
    recipe = parse(Recipe, yaml.safe_load(text), name=str(out))
    for problem in preflight(recipe.data, Path()):
        if problem.grade == "fail":
            raise ConfigError(f"{problem.where}: {problem.what}; {problem.remedy}")


def _keep_old(out: Path, text: str) -> Path | None:
    """Put the recipe at `out` aside, where it says something else than `text`."""
    try:
        if not out.exists() or out.read_bytes() == text.encode():
            return None
        old = next(path for number in count(1) if not (path := out.with_name(f"{out.name}.old{number}")).exists())
        publish.write_bytes(old, out.read_bytes())
        return old
    except OSError as error:
        raise storage_error(error, out, doing="keeping the old recipe") from error


def _remarks(answers: InitAnswers, seen: Seen, *, guessed: bool) -> list[str]:
    remarks = []
    if guessed:
        remarks.append(
            f"columns guessed: source {answers.source!r}, target {answers.target!r};"
            " if they are others, run it again with --source, --target and --force"
        )
    return remarks + _data_remarks(answers, seen) + _teacher_remarks(answers.teacher)


def _data_remarks(answers: InitAnswers, seen: Seen) -> list[str]:
    source, target = seen.column(answers.source), seen.column(answers.target)
    remarks = []
    pairs = min(source.filled, target.filled)
    if seen.whole and pairs < FEW_PAIRS:
        remarks.append(
            f"warning: {seen.place} has only {pairs} pairs; give 100 or more for results that mean something"
        )
    if limit := train_limit(answers, seen):
        remarks.append(f"data.limit.train is {limit:,}, what {answers.minutes:g} minutes on 2 cores get through")
    for side, column, most in (("source", source, MOST_SOURCE), ("target", target, MOST_TARGET)):
        if column.tokens_p95 > most:
            length = f"1 in 20 has more than about {column.tokens_p95:,} tokens"
            remarks.append(f"limits.{side} is {most}, so long texts are cut ({length}); raise it where there is time")
    return remarks


def _teacher_remarks(teacher: str) -> list[str]:
    remarks = []
    terms = find_wheel(teacher).terms if teacher.startswith(PREFIX) else None
    if terms:
        remarks.append(f"read the {terms.name}, {terms.url}, and if you accept, set accept_licences: [{terms.key}]")
    base = base_of(teacher)
    if base.layers is None:
        remarks.append(f"student.layers is {base.kept}: set it to about 3 of 5 of the layers that {teacher} has")
    return remarks
