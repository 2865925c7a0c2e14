"""A model behind an OpenAI-compatible completions endpoint: vLLM, llama.cpp, or a service that is paid for.

Prompts travel as token ids, so nobody tokenises twice. The `openai` client retries with back-off and honours
Retry-After; this file adds the pace, the count of tokens and one line for each way in which a server can refuse.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from instil.core.errors import ModelError
from instil.data.prompts import Prompt
from instil.data.tokens import encode_prompt
from instil.models.config import ServedConfig

if TYPE_CHECKING:
    from openai import OpenAI
    from transformers import PreTrainedTokenizerBase

_MINUTE_S = 60.0
_ANY_KEY = "none"
"""Servers of one's own ask for no key, but the client sends one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: its choices as the server gave them, and the tokens that it counted."""

    choices: Sequence[Mapping[str, Any]]
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Pace:
    """At most `per_minute` units: `wait` sleeps until as many as asked for may go; None is no bound."""

    per_minute: float | None
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, amount: float) -> None:
        """Sleeps until it is this caller's turn; the next one's comes `amount` units later."""
        if self.per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + amount * _MINUTE_S / self.per_minute
        time.sleep(turn - now)


class Endpoint:
    """The server of a `ServedConfig`, which the recipe has at `place`. Raises `ModelError` where it cannot be reached
    or refuses."""

    def __init__(self, config: ServedConfig, place: str = "teacher.served") -> None:
        self.config = config
        self.place = place
        self._requests = Pace(config.requests_per_minute)
        self._tokens = Pace(config.tokens_per_minute)

    @cached_property
    def _client(self) -> OpenAI:
        try:
            from openai import OpenAI
        except ImportError:
            raise ModelError(f"{self.place} needs the openai client; run: pip install 'instil[served]'") from None
        key = os.environ.get(self.config.key_env, "") if self.config.key_env else _ANY_KEY
        if not key:
            raise ModelError(f"{self.config.url}: the environment variable {self.config.key_env} has no key; set it")
        return OpenAI(
            base_url=self.config.url, api_key=key, max_retries=self.config.retries, timeout=self.config.timeout_s
        )

    def _ask(self, what: Callable[[], Any]) -> Any:
        import openai

        try:
            return what()
        except openai.OpenAIError as error:
            raise ModelError(f"{self.config.url}: {self._refusal(error)}") from error

    def _refusal(self, error: Exception) -> str:
        import openai

        tries = f"after {self.config.retries + 1} tries" if self.config.retries else "at once"
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"refuses the key ({reason}); name its environment variable in {self.place}.key_env and set it"
        if isinstance(error, openai.NotFoundError):
            return f"knows no such model or path ({reason}); check {self.place}.url, it mostly ends in /v1, and model"
        if isinstance(error, openai.APIConnectionError):
            return f"no answer {tries} ({reason}); start the server, or check the address and timeout_s"
        if isinstance(error, openai.RateLimitError | openai.InternalServerError):
            return f"still busy {tries} ({reason}); lower concurrency or set requests_per_minute, and run again"
        return f"refuses the request ({reason})"

    @cached_property
    def listed(self) -> Mapping[str, Mapping[str, Any]]:
        """The server's models by name, with what it says of each."""
        found = self._ask(self._client.models.with_raw_response.list).http_response.json()
        return {str(entry["id"]): entry for entry in found.get("data", [])}

    @cached_property
    def model(self) -> str:
        """The model's name at the server."""
        if self.config.model is not None:
            return self.config.model
        if len(self.listed) != 1:
            names = ", ".join(self.listed) or "none"
            raise ModelError(f"{self.config.url}: lists {len(self.listed)} models ({names}); set {self.place}.model")
        return next(iter(self.listed))

    def complete(self, prompt: Sequence[int] | str, *, max_tokens: int, **more: Any) -> Reply:
        """What the model writes behind `prompt`, token ids or text, greedily unless `more` says otherwise. `more` are
        further fields of the request."""
        sent = prompt if isinstance(prompt, str) else list(prompt)

        def ask(**request: Any) -> Any:
            return self._client.completions.with_raw_response.create(prompt=sent, **request)

        return self._reply(ask, len(prompt), max_tokens, more)

    def chat(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, **more: Any) -> Reply:
        """What the model answers to `messages`; otherwise like `complete`."""
        sent: Any = list(messages)

        def ask(**request: Any) -> Any:
            return self._client.chat.completions.with_raw_response.create(messages=sent, **request)

        return self._reply(ask, sum(len(message["content"]) for message in sent), max_tokens, more)

    def _reply(self, ask: Callable[..., Any], size: int, max_tokens: int, more: Mapping[str, Any]) -> Reply:
        """`size`: about how many tokens travel; letters, where nobody has tokenised, are an upper bound."""
        self._requests.wait(1)
        self._tokens.wait(size + max_tokens)
        body = {"temperature": 0.0} | dict(more)
        raw = self._ask(lambda: ask(model=self.model, max_tokens=max_tokens, extra_body=body))
        try:
            found = raw.http_response.json()
            usage = found.get("usage") or {}
            return Reply(
                found["choices"], int(usage.get("prompt_tokens", size)), int(usage.get("completion_tokens", 0))
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self.config.url}: its answer is no completion ({error}); check the address") from error


class ServedGenerator:
    """The `Generator` of a served model: greedy texts, as many requests at a time as its config says."""

    elsewhere = True

    def __init__(
        self, endpoint: Endpoint, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, name: str,
        max_source_tokens: int | None,
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_source_tokens = max_source_tokens
        self.name = name
        self.parameters = endpoint.config.parameters
        self.bytes = 0

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        """One text for each source, in their order. Requests run beside each other whatever the `batch_size`, but one
        after the other where it is 1, so that latency is one request's."""
        workers = 1 if batch_size == 1 else self.endpoint.config.concurrency
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda source: self._text(source, max_new_tokens), sources))

    def candidates(
        self, sources: Sequence[str], count: int, *, max_new_tokens: int, batch_size: int = 1,
        sample: float | None = None, seed: int = 0,
    ) -> list[list[str]]:  # fmt: skip
        """Up to `count` different texts for each source: the greedy one, or drawn at temperature `sample`, each with
        its own seed from `seed` on."""
        if sample is None:
            return [[text] for text in self.generate(sources, max_new_tokens=max_new_tokens, batch_size=batch_size)]
        asked = [(source, seed + number) for source in sources for number in range(count)]
        with ThreadPoolExecutor(self.endpoint.config.concurrency) as pool:
            texts = list(
                pool.map(lambda ask: self._text(ask[0], max_new_tokens, temperature=sample, seed=ask[1]), asked)
            )
        return [list(dict.fromkeys(texts[start : start + count])) for start in range(0, len(texts), count)]

    def _text(self, source: str, max_new_tokens: int, **more: Any) -> str:
        ids = encode_prompt(self.tokenizer, self.prompt, source, self.max_source_tokens, "decoder-only")
        return str(self.endpoint.complete(ids, max_tokens=max_new_tokens, **more).choices[0]["text"]).strip()
