"""Speaking to a person: progress and remarks go to stderr, results to stdout.

Libraries of the house never print; they take a `Progress` or nothing. Heavy parts of rich load on first use.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from instil.core import units
from instil.core.processes import is_first

T = TypeVar("T")
Advance = Callable[[float, str], None]
"""Called with how far the work has come (units done so far) and a remark such as "loss 2.31"."""


def silent(done: float, remark: str) -> None:
    """The `Advance` of who does not want to hear."""


QUIET_SECONDS = 2.0
_PLAIN_EVERY_SECONDS = 30.0


def say(message: str) -> None:
    """One line for the person, on stderr; of several processes, the first speaks for all."""
    if is_first():
        print(message, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """`value` as one JSON object on stdout; a number that is not finite, which JSON has not, as null."""
    print(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def progress(label: str, total: float | None, unit: str = "") -> Iterator[Advance]:
    """A progress bar with rate and time left on a terminal; a line every 30 seconds elsewhere.

    Nothing shows for work that ends within two seconds. `total` is in `unit`; None when unknown.
    """
    if sys.stderr.isatty() and is_first():
        with _bar(label, total, unit) as advance:
            yield advance
    else:
        yield _plain_lines(label, total, unit)


@contextmanager
def _bar(label: str, total: float | None, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    start = time.monotonic()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=total, rate="", remark="", visible=False)

    def advance(done: float, remark: str = "") -> None:
        elapsed = time.monotonic() - start
        bar.update(
            task, completed=done, visible=elapsed > QUIET_SECONDS, rate=_rate(done, elapsed, unit), remark=remark
        )

    with bar:
        yield advance


def _plain_lines(label: str, total: float | None, unit: str) -> Advance:
    start = last = time.monotonic()

    def advance(done: float, remark: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _PLAIN_EVERY_SECONDS:
            return
        last = now
        elapsed = now - start
        left = f", {units.seconds(elapsed * (total - done) / done)} left" if total and done else ""
        whole = f"/{total:g}" if total else ""
        say(f"{label}: {done:.0f}{whole} {unit}, {_rate(done, elapsed, unit)}{left}  {remark}".rstrip())

    return advance


def _rate(done: float, elapsed: float, unit: str) -> str:
    return f"{done / elapsed:.1f} {unit}/s" if elapsed > 0 else ""


def track(items: Iterable[T], label: str, total: int, unit: str = "items") -> Iterator[T]:
    """Yield `items` while a progress bar counts them."""
    with progress(label, total, unit) as advance:
        for done, item in enumerate(items, start=1):
            yield item
            advance(done, "")
