"""Texts as they come: from an engine's thread into the loop that serves the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from instil.serve.jobs import Answer, Job, ServeError
from instil.serve.models import ServedModel
from instil.serve.service import Service

Step = tuple[int, str | None, Answer | ServeError | None]
"""A job's index with a piece of its text, or with its answer at its end."""
_NEVER_S = 1e6


def stream(service: Service, model: ServedModel, jobs: Sequence[Job]) -> AsyncIterator[Step]:
    """The steps of `jobs`, submitted now, in the order in which they come. Raises `ServeError` if they may not wait.

    Whoever stops to listen cancels them.
    """
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[Step] = asyncio.Queue()

    def tell(step: Step) -> None:
        loop.call_soon_threadsafe(steps.put_nowait, step)

    def end(index: int, future: Any) -> None:
        error = future.exception()
        if error is None:
            tell((index, None, future.result()))
        else:
            tell((index, None, error if isinstance(error, ServeError) else ServeError(str(error), 503)))

    for index, job in enumerate(jobs):
        job.listener = partial(_heard, tell, index)
        job.future.add_done_callback(partial(end, index))
    service.submit(model, jobs)
    return _steps(steps, model, jobs)


@contextmanager
def expiring(model: ServedModel, jobs: Sequence[Job]) -> Iterator[None]:
    """Inside, `jobs` hear of it when their deadline passes while all engines are busy."""
    due = min(job.deadline for job in jobs) - time.monotonic()
    # A moment later, so that it has passed by any clock's grain.
    timer = asyncio.get_running_loop().call_later(due + 0.01, model.room.expire) if due < _NEVER_S else None
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def _heard(tell: Any, index: int, text: str) -> None:
    tell((index, text, None))


async def _steps(steps: asyncio.Queue[Step], model: ServedModel, jobs: Sequence[Job]) -> AsyncIterator[Step]:
    left = len(jobs)
    try:
        with expiring(model, jobs):
            while left:
                step = await steps.get()
                left -= step[2] is not None
                yield step
    finally:
        for job in jobs:
            job.cancel()
