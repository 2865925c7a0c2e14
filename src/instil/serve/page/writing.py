"""What the page asks of a model: one text, as it comes, with what it took; and many texts, in order."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from instil.core.errors import InstilError
from instil.serve.jobs import Answer, Job, ServeError
from instil.serve.models import ServedModel
from instil.serve.service import Service

_SHOW_EVERY_S = 0.06


@dataclass(frozen=True, slots=True)
class Shown:
    """One model's text so far. `read` and `cut`: tokens of the input, and of it those that were cut off."""

    model: str
    text: str = ""
    answer: Answer | None = None
    problem: str = ""
    read: int = 0
    cut: int = 0
    waiting: bool = False

    @property
    def tokens_per_second(self) -> float | None:
        """Of writing, from the first token on; None for fewer than two tokens, or an answer from the cache."""
        answer = self.answer
        if answer is None or answer.cached or answer.new_tokens < 2 or answer.whole_s <= answer.first_s:
            return None
        return (answer.new_tokens - 1) / (answer.whole_s - answer.first_s)


def write(service: Service, model: ServedModel, source: str, limit: int, *, fresh: bool = True) -> Iterator[Shown]:
    """The text of `model` for `source`, several times on its way and at its end. `fresh`: not from the cache, so that
    its times are those of writing."""
    shown = Shown(model.name, waiting=True)
    yield shown
    pieces: queue.Queue[str | None] = queue.Queue()
    try:
        ids = model.source_ids(source)
        shown = replace(shown, read=len(ids), cut=_cut(model, source))
        job = Job(ids, limit, deadline=service.deadline(None), fresh=fresh, listener=pieces.put)
        job.future.add_done_callback(lambda _: pieces.put(None))
        service.submit(model, [job])
    except InstilError as error:
        yield replace(shown, problem=str(error), waiting=False)
        return
    try:
        for text in _growing(pieces):
            shown = replace(shown, text=text, waiting=False)
            yield shown
    finally:
        job.cancel()
    yield _ended(shown, job.future)


def _ended(shown: Shown, future: Future[Answer]) -> Shown:
    error = future.exception()
    if error is not None:
        return replace(shown, problem=str(error), waiting=False)
    answer = future.result()
    return replace(shown, text=answer.text.strip(), answer=answer, waiting=False)


def _growing(pieces: queue.Queue[str | None]) -> Iterator[str]:
    """The text so far, now and then."""
    text, last = "", 0.0
    while (piece := pieces.get()) is not None:
        text += piece
        if time.monotonic() - last > _SHOW_EVERY_S:
            last = time.monotonic()
            yield text


def _cut(model: ServedModel, source: str) -> int:
    most = model.spec.max_source_tokens
    if most is None:
        return 0
    return max(0, len(model.engine.tokenizer(source, add_special_tokens=False)["input_ids"]) - most)


def write_all(service: Service, model: ServedModel, sources: Sequence[str], limit: int) -> Iterator[str]:
    """One text for each source, in order, as they are done. A source that the model cannot take gives "error: ..."."""
    together = max(1, model.limits.queue // 2)
    for start in range(0, len(sources), together):
        waiting: list[Job | str] = []
        for source in sources[start : start + together]:
            waiting.append(_begun(service, model, source, limit))
        for each in waiting:
            yield each if isinstance(each, str) else _text(each)


def _begun(service: Service, model: ServedModel, source: str, limit: int) -> Job | str:
    try:
        job = Job(model.source_ids(source), limit)
        while True:
            try:
                service.submit(model, [job])
                return job
            except ServeError as error:
                if error.status != 429:
                    raise
                time.sleep(error.retry_after or 1)
    except InstilError as error:
        return f"error: {error}"


def _text(job: Job) -> str:
    error = job.future.exception()
    return f"error: {error}" if error is not None else job.future.result().text.strip()
