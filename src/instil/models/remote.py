"""A system behind an OpenAI-compatible endpoint of which nothing is known but its answers: texts travel, no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from instil.core.errors import ModelError
from instil.data.prompts import SLOT, Prompt
from instil.models.served import Endpoint


class RemoteGenerator:
    """The `Generator` of an endpoint: a chat where the prompt is one, else what comes behind the prompt's text."""

    elsewhere = True
    bytes = 0

    def __init__(self, endpoint: Endpoint, prompt: Prompt, *, name: str) -> None:
        self.endpoint = endpoint
        self.prompt = prompt
        self.name = name
        self.parameters = endpoint.config.parameters

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        """One text for each source, in their order: several requests at a time, but one after the other where
        `batch_size` is 1, so that latency is one request's."""
        workers = 1 if batch_size == 1 else self.endpoint.config.concurrency
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda source: self._text(source, max_new_tokens), sources))

    def _text(self, source: str, max_new_tokens: int) -> str:
        prompt = self.prompt
        if prompt.kind == "chat":
            return chat_text(self.endpoint, prompt.text.replace(SLOT, source), prompt.system, max_tokens=max_new_tokens)
        text = prompt.text + source if prompt.kind == "prefix" else prompt.text.replace(SLOT, source)
        return str(self.endpoint.complete(text, max_tokens=max_new_tokens).choices[0].get("text") or "").strip()


def chat_text(endpoint: Endpoint, text: str, system: str | None = None, *, max_tokens: int, **more: Any) -> str:
    """What the endpoint's model answers to `text`; `more` are further fields of the request. Raises `ModelError` where
    the server does not chat."""
    messages = [{"role": "system", "content": system}] if system else []
    reply = endpoint.chat([*messages, {"role": "user", "content": text}], max_tokens=max_tokens, **more)
    try:
        return str(reply.choices[0]["message"]["content"] or "").strip()
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(f"{endpoint.config.url}: its answer has no message ({error}); check the address") from error
