"""The answers that a new recipe is made from: checked as they are typed, guessed where they are not given."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import typer

from instil.core.console import say
from instil.core.errors import ConfigError, ModelError
from instil.data.problems import brief, closest
from instil.models.wheels import PREFIX, find_wheel
from instil.run.init.data import ColumnSeen, Seen, guess_columns

Task = Literal["summarise", "translate", "answer", "data-to-text", "other"]
TASKS: tuple[Task, ...] = get_args(Task)
BUILT_IN_TEACHER = f"{PREFIX}smollm2-135m-instruct"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_TASK_OF_WORD: dict[str, Task] = {
    "answer": "answer", "translat": "translate", "summar": "summarise", "table": "data-to-text",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class InitAnswers:
    """What a new recipe is made from. `minutes`: training in all, teacher and both students together."""

    data: Path
    source: str
    target: str
    task: Task = "summarise"
    teacher: str = BUILT_IN_TEACHER
    minutes: float = 10.0
    name: str = "my-model"


QUESTIONS = {
    "source": "Column that the model reads",
    "target": "Column that it is to write",
    "task": f"Task ({', '.join(TASKS)})",
    "teacher": "Teacher (a folder, a hub id or wheel:NAME)",
    "minutes": "Minutes of training in all",
    "name": "Name of the recipe",
}


def check_all(seen: Seen, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values for what is `given`, by the keys of `QUESTIONS`; None is not given. Raises `ConfigError`."""
    return {key: _CHECKS[key](seen, value) for key, value in given.items() if value is not None}


def guess(data: Path, seen: Seen, flags: Mapping[str, Any], *, partly: bool) -> InitAnswers:
    """Answers from `flags`, and for the rest what seems likely.

    Raises `ConfigError` when no column seems fit; `partly` names any column instead, for a person to correct.
    """
    source, target = guess_columns(seen.columns, source=flags.get("source"), target=flags.get("target"))
    for option, value in (("source", source), ("target", target)):
        if value is None and not partly:
            raise ConfigError(
                f"{seen.place}: no column looks like the {option}; name it with --{option} ({_found(seen)})"
            )
    pair = {"source": source or seen.names[0], "target": target or seen.names[-1]}
    known = {**pair, "task": guess_task(seen, **pair), "name": default_name(str(data))}
    return InitAnswers(data=data, **(known | dict(flags)))


def guess_task(seen: Seen, source: str, target: str) -> Task:
    """The task by the columns' names, else by their lengths."""
    named = f"{source} {target}".lower()
    if found := next((task for word, task in _TASK_OF_WORD.items() if word in named), None):
        return found
    return "summarise" if seen.column(target).words_mean < 0.6 * seen.column(source).words_mean else "other"


def default_name(text: str) -> str:
    """A recipe's name out of a file's: "My data.jsonl.gz" gives "My-data"."""
    stem = re.sub(r"(\.(jsonl|ndjson|json|csv|tsv|parquet|gz))+$", "", Path(text).name, flags=re.IGNORECASE)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80]
    return plain if _NAME.fullmatch(plain) else "my-model"


def ask(seen: Seen, defaults: InitAnswers, *, skip: Collection[str] = ()) -> InitAnswers:
    """Ask for each of the answers but those in `skip`, on stderr; return takes the default, a wrong answer is asked for
    again. Raises `typer.Abort` when the user interrupts."""
    say(_overview(seen))
    answers = defaults
    for key, question in QUESTIONS.items():
        if key not in skip:
            default = _default(key, answers, seen)
            answers = replace(answers, **{key: _ask_one(question, default, seen, _CHECKS[key])})
    return answers


def _default(key: str, answers: InitAnswers, seen: Seen) -> Any:
    """The default for `key`, in the light of what was answered before."""
    if key == "target" and answers.source == answers.target:
        return guess_columns(seen.columns, source=answers.source)[1] or answers.target
    if key == "task":
        return guess_task(seen, answers.source, answers.target)
    return getattr(answers, key)


def _ask_one(question: str, default: Any, seen: Seen, check: Callable[[Seen, Any], Any]) -> Any:
    shown = f"{default:g}" if isinstance(default, float) else default
    while True:
        try:
            return check(seen, prompt(f"{question} [{shown}]") or shown)
        except ConfigError as error:
            say(f"  {error}")


def prompt(question: str) -> str:
    """A line that the user types after `question`; raises `typer.Abort` at the end of input.

    All of it on stderr: typer's own prompt leaves a space on stdout.
    """
    print(f"{question}: ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise typer.Abort
    return line.strip()


def _overview(seen: Seen) -> str:
    more = "" if seen.whole else " at least"
    width = min(24, max(len(name) for name in seen.names))
    columns = (f"  {column.name:<{width}}  {_about(column)}" for column in seen.columns)
    return "\n".join([f"{seen.place}:{more} {seen.records:,} records with the columns", *columns])


def _about(column: ColumnSeen) -> str:
    if not column.filled:
        return "no text"
    return f"{column.words_mean:.0f} words on average, 95% within {column.words_p95}, e.g. {column.examples[0]}"


def _found(seen: Seen) -> str:
    return f"found {', '.join(brief(name) for name in seen.names[:12])}"


# Each check turns what was typed into the value, or raises `ConfigError`.


def _check_column(option: str) -> Callable[[Seen, Any], str]:
    def check(seen: Seen, value: str) -> str:
        if value in seen.names:
            return value
        near = closest(value, seen.names)
        hint = f"did you mean {near!r}?" if near else _found(seen)
        raise ConfigError(f"--{option} {value}: {seen.place} has no such column; {hint}")

    return check


def _check_task(_seen: Seen, value: str) -> Task:
    text = value.strip().lower()
    if text not in TASKS:
        near = closest(text, TASKS)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ConfigError(f"--task {value}: no such task; choose one of {', '.join(TASKS)}{hint}")
    return text


def _check_teacher(_seen: Seen, value: str) -> str:
    ref = value.strip()
    if not ref:
        raise ConfigError(f"--teacher: empty; give a folder, a hub id or {BUILT_IN_TEACHER}")
    if ref.startswith(PREFIX):
        try:
            find_wheel(ref)
        except ModelError as error:
            raise ConfigError(f"--teacher {error}") from None
    if (ref.startswith((".", "/", "~")) or ref.endswith(".gguf")) and not _exists(ref):
        raise ConfigError(f"--teacher {ref}: no such file or folder; check the path")
    return ref


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # such as the home of a user who is not there
        return False


def _check_minutes(_seen: Seen, value: object) -> float:
    try:
        minutes = float(str(value))
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise ConfigError(f"--minutes {value}: no number above 0; give the minutes of training in all, for example 10")
    return minutes


def _check_name(_seen: Seen, value: str) -> str:
    if _NAME.fullmatch(value) is None:
        remedy = f"use letters, digits, '.', '_' and '-', for example {default_name(value)}"
        raise ConfigError(f"--name {value}: cannot name a folder; {remedy}")
    return value


_CHECKS: dict[str, Callable[[Seen, Any], Any]] = {
    "source": _check_column("source"),
    "target": _check_column("target"),
    "task": _check_task,
    "teacher": _check_teacher,
    "minutes": _check_minutes,
    "name": _check_name,
}
