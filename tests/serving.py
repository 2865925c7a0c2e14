"""Tiny models on disk, and a real server over them in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import tiny_server
from instil.serve.config import EngineOptions, Limits, ModelSpec, ServeConfig
from instil.serve.service import Service

ROOM = 128
"""Positions of the tiny models."""


def write_model(folder: Path, name: str = "qwen3", *, seed: int = 0) -> Path:
    """A tiny model in the transformers format."""
    kind = "encoder-decoder" if name in tiny.ENCODER_DECODER else "decoder-only"
    tiny.tiny_model(name, seed=seed).save_pretrained(folder)
    tiny.tiny_tokenizer(kind).save_pretrained(folder)
    return folder


def write_gguf(folder: Path, *, seed: int = 0) -> Path:
    """The tiny Qwen 3 as a GGUF file with its tokenizer beside it."""
    tokenizer = tiny.tiny_tokenizer("decoder-only")
    tokenizer.save_pretrained(folder)
    words = [tokenizer.convert_ids_to_tokens(token) for token in range(tiny.VOCABULARY)]
    tiny_server.write_gguf(tiny.tiny_model("qwen3", seed=seed), words, folder / f"{folder.name}.gguf")
    return folder


@dataclass(slots=True)
class Running:
    """A server that runs, and what it logged."""

    url: str
    service: Service
    lines: list[str] = field(default_factory=list)

    def client(self, key: str = "none") -> Any:
        """The official client."""
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)


def config_of(*specs: ModelSpec, limits: Limits | None = None, **more: Any) -> ServeConfig:
    """A server's settings for the CPU, with one thread."""
    return ServeConfig(
        models=specs, limits=limits or Limits(batch=4), options=EngineOptions(device="cpu", threads=1, context=ROOM),
        **more,
    )  # fmt: skip


@contextmanager
def running(config: ServeConfig) -> Iterator[Running]:
    """The server, answering, until the block ends."""
    import uvicorn

    from instil.serve.app import make_app
    from instil.serve.server import listen

    service = Service(config, say=lambda _: None)
    lines: list[str] = []
    server = uvicorn.Server(uvicorn.Config(make_app(service, log=lines.append), log_level="warning"))
    door = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{door.getsockname()[1]}", service, lines)
    finally:
        server.should_exit = True
        thread.join()
        door.close()
        service.close()
