"""How long a stage has been worked at, over all commands that went on with it: kept beside its work while it lasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from instil.core.publish import write_text

ELAPSED_NAME = "elapsed"
_KEPT_EVERY_SECONDS = 10.0


@contextmanager
def counted(folder: Path) -> Iterator[Callable[[], float]]:
    """Yields what tells the seconds of work in `folder` so far, those of earlier commands included. They are kept
    there while it lasts and when an exception ends it, so that a kill loses no more than the last few."""
    before, started = _kept(folder), time.monotonic()
    ended = Event()

    def elapsed() -> float:
        return before + time.monotonic() - started

    def keep_on() -> None:
        while not ended.wait(_KEPT_EVERY_SECONDS):
            keep_elapsed(folder, elapsed())

    keeper = Thread(target=keep_on, daemon=True)
    keeper.start()
    try:
        yield elapsed
    except BaseException:
        keep_elapsed(folder, elapsed())
        raise
    finally:
        ended.set()
        keeper.join()


def keep_elapsed(folder: Path, seconds: float) -> None:
    """Write `seconds` into `folder`. A disk that refuses is no matter: it is the work that is to say so."""
    with suppress(OSError):
        write_text(folder / ELAPSED_NAME, f"{seconds:.3f}\n")


def _kept(folder: Path) -> float:
    with suppress(OSError, ValueError):
        return float((folder / ELAPSED_NAME).read_text(encoding="utf8"))
    return 0.0
