"""A model as it is served: its engine, the threads that feed it, its queue, its cache, how it reads requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from instil.core import console
from instil.core.errors import InstilError
from instil.data.tokens import encode_prompt
from instil.models.folders import first_line
from instil.serve.cache import AnswerCache, key_of
from instil.serve.config import Limits, ModelSpec
from instil.serve.engines.base import Engine
from instil.serve.jobs import Answer, Job, ServeError
from instil.serve.metrics import Metrics
from instil.serve.waiting import WaitingRoom

Message = Mapping[str, str]


class ServedModel:
    """One model behind its queue. Its threads run from the start until `close`."""

    def __init__(
        self, spec: ModelSpec, engine: Engine, limits: Limits, metrics: Metrics, *, why: str = "",
        memory: int | None = None,
    ) -> None:  # fmt: skip
        """`memory`: bytes that loading took at its peak, where that is known."""
        self.spec = spec
        self.memory = memory
        self.engine = engine
        self.limits = limits
        self.why = why
        self.since = int(time.time())
        self.room = WaitingRoom(limits.queue, gather_s=limits.gather_ms / 1000 if engine.facts.batch > 1 else 0.0)
        self.cache = AnswerCache(round(limits.cache_mb * 1e6))
        self._metrics = metrics
        self._encoding = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"{spec.name}-{number}", daemon=True)
            for number in range(engine.facts.workers)
        ]
        metrics.watch(self)
        for thread in self._threads:
            thread.start()

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.spec.name

    def source_ids(self, source: str) -> list[int]:
        """What the model reads for a text to work on: its own prompt around it, cut as in training."""
        prompt = self.spec.prompt
        if prompt is None:
            return self.text_ids(source)
        with self._encoding:
            ids = encode_prompt(
                self.engine.tokenizer, prompt, source, self.spec.max_source_tokens, self.engine.facts.kind
            )
        return self._checked(ids)

    def text_ids(self, text: str) -> list[int]:
        """What the model reads for a bare prompt."""
        with self._encoding:  # A fast tokenizer may not be used by two threads at once.
            ids = list(self.engine.tokenizer(text)["input_ids"])
        if self.engine.facts.kind == "decoder-only" and ids and ids[-1] == self.engine.tokenizer.eos_token_id:
            ids.pop()
        return self._checked(ids)

    def given_ids(self, ids: Sequence[int]) -> list[int]:
        """Token ids that the request brings, checked."""
        known = len(self.engine.tokenizer)
        if unknown := next((token for token in ids if not 0 <= token < known), None):
            raise ServeError(f"prompt: {unknown} is no token of {self.name}; its ids go from 0 to {known - 1}")
        return self._checked(list(ids))

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """What the model reads for a conversation: its own prompt around the one thing said, or the chat template."""
        if self.spec.prompt is not None and self.spec.prompt.kind != "chat":
            return self.source_ids(_only_one(messages, self.name))
        if not getattr(self.engine.tokenizer, "chat_template", None):
            return self.text_ids(_only_one(messages, self.name))
        return self._checked(self._templated(messages))

    def _templated(self, messages: Sequence[Message]) -> list[int]:
        from jinja2 import TemplateError

        prompt = self.spec.prompt
        said = [dict(message) for message in messages]
        if prompt is not None and prompt.system is not None and said[0]["role"] != "system":
            said.insert(0, {"role": "system", "content": prompt.system})
        try:
            with self._encoding:
                text = self.engine.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
                return list(self.engine.tokenizer(text, add_special_tokens=False)["input_ids"])
        except (TemplateError, TypeError, ValueError) as error:
            raise ServeError(f"messages: the model's chat template refuses them ({first_line(error)})") from error

    def _checked(self, ids: list[int]) -> list[int]:
        if not ids:
            raise ServeError("the prompt is empty; send some text")
        return ids

    def require_room(self, ids: Sequence[int], wanted: int) -> None:
        """Raises `ServeError` where prompt and answer do not fit into the model."""
        facts = self.engine.facts
        needed = len(ids) + wanted if facts.kind == "decoder-only" else max(len(ids), wanted)
        if needed > facts.positions:
            raise ServeError(
                f"{self.name} has room for {facts.positions} tokens, but the prompt has {len(ids)} and {wanted} more "
                "are asked for; send less text or ask for fewer tokens"
            )

    def submit(self, jobs: Sequence[Job]) -> None:
        """All of `jobs` are answered from the cache or wait from now on; or none, with `ServeError` 429."""
        waiting = []
        for job in jobs:
            if job.scores is not None and not self.engine.facts.can_score:
                raise ServeError(
                    f"{self.name} runs on {self.engine.facts.name}, which gives no logprobs; leave them out"
                )
            self.require_room(job.ids, job.limit)
            found = self.cache.get(key) if (key := key_of(job)) is not None and not job.fresh else None
            if found is None:
                waiting.append(job)
            elif not job.future.done():
                job.answer(found)
                self._metrics.cache_hits.labels(self.name).inc()
        if waiting:
            self.room.put(waiting)

    def _work(self) -> None:
        while taken := self.room.take(self.engine.facts.batch):
            jobs = [job for job in taken if job.start()]
            if not jobs:
                continue
            self._metrics.batch_size.labels(self.name).observe(len(jobs))
            try:
                self.engine.run(jobs)
            except Exception as error:
                # Nobody but the waiting requests can be told; the thread must live on for the others.
                self._fail(jobs, error)
            for job in jobs:
                self._account(job)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        if len(jobs) > 1 and not isinstance(error, InstilError):
            self._run_alone([job for job in jobs if not job.future.done()])
            return
        if not isinstance(error, InstilError):
            console.say(f"{self.name}: the engine failed: {first_line(error)}")
        self._metrics.engine_failures.labels(self.name).inc()
        for job in jobs:
            job.fail(_told(error))

    def _run_alone(self, jobs: Sequence[Job]) -> None:
        """One by one, so that a bad prompt does not fail its neighbours."""
        for job in jobs:
            try:
                job.again()
                self.engine.run([job])
            except Exception as error:
                self._fail([job], error)

    def _account(self, job: Job) -> None:
        if job.future.exception() is not None:
            return
        answer: Answer = job.future.result()
        self._metrics.answered(self.name, answer)
        key = key_of(job)
        if key is not None and not job.cancelled:
            self.cache.put(key, answer)

    def close(self) -> None:
        """Serve whoever waits, then end threads and engine."""
        self.room.close()
        for thread in self._threads:
            thread.join()
        self.engine.close()


def _told(error: Exception) -> ServeError:
    """What clients hear of a failure: our own words, never the engine's, which are for the log."""
    if isinstance(error, ServeError):
        return error
    if isinstance(error, InstilError):
        return ServeError(f"the engine failed: {first_line(error)}", 400, retry_after=1)
    return ServeError("the engine failed; the server's log says why", 503, retry_after=1)


def _only_one(messages: Sequence[Message], name: str) -> str:
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise ServeError(f"messages: {name} turns one text into another; send one message, of the role user")
    return messages[0]["content"]


def describe(model: ServedModel) -> dict[str, Any]:
    """What /v1/models tells of it."""
    facts = model.engine.facts
    return {
        "id": model.name, "object": "model", "created": model.since, "owned_by": "instil", "engine": facts.name,
        "family": facts.kind, "bytes": facts.bytes, "max_model_len": facts.positions,
    }  # fmt: skip
