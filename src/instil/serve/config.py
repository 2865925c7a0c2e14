"""How a server behaves: addresses, limits, cache, keys. Every default is one that a laptop survives."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from instil.core.config import Config
from instil.data.prompts import Prompt

EngineName = Literal["auto", "transformers", "ctranslate2", "llama.cpp", "onnx", "openvino", "vllm"]


class ModelSpec(Config):
    """A model to serve: what requests call it, where it is (`adapter`: a LoRA adapter over it), and the prompt that it
    learned with, if that is known.

    `max_source_tokens` cuts a source of /v1/generate as training did; None leaves it whole.
    """

    name: str
    ref: str
    adapter: Path | None = None
    prompt: Prompt | None = None
    max_source_tokens: PositiveInt | None = None
    max_new_tokens: PositiveInt = 128


class Limits(Config):
    """What one request, and all that wait together, may take."""

    queue: PositiveInt = Field(64, description="Prompts that wait for each model; more are answered 429.")
    batch: PositiveInt = Field(16, description="Prompts that an engine takes at once.")
    gather_ms: float = Field(4.0, ge=0, le=1000, description="A batch is closed when none has come for so long.")
    deadline_s: float = Field(60.0, gt=0, description="A prompt that waits longer is answered 504.")
    new_tokens: PositiveInt = Field(1024, description="The most tokens that a request may ask for.")
    prompts: PositiveInt = Field(64, description="The most prompts in one request.")
    body_bytes: PositiveInt = Field(1_000_000, description="The largest request.")
    cache_mb: float = Field(32.0, ge=0, description="Answers kept for each model; 0 keeps none.")


class EngineOptions(Config):
    """Which engine runs the models, and how. `draft` is the small model that guesses ahead for the others."""

    engine: EngineName = "auto"
    device: str = "auto"
    threads: PositiveInt | None = None
    draft: str | None = None
    draft_tokens: PositiveInt = 3
    context: PositiveInt = Field(2048, description="Tokens that a model has room for, no more than it has places.")


class ServeConfig(Config):
    """A whole server."""

    models: tuple[ModelSpec, ...]
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    options: EngineOptions = EngineOptions()
    limits: Limits = Limits()
    keys: Path | None = None
    cors: tuple[str, ...] = ()
    log_texts: bool = False

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [model.name for model in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two models are called {twice[0]!r}; give one another name with NAME=MODEL")
        return self
