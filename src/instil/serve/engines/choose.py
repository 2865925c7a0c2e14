"""Which engine runs a model, and why: by what lies at its place, by the device, by what is installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from instil.core.errors import ModelError
from instil.models import wheels
from instil.models.loading import GGUF_SUFFIX, kind_of
from instil.serve.config import EngineName, EngineOptions, Limits, ModelSpec
from instil.serve.engines.base import Engine, room_of


@dataclass(frozen=True, slots=True)
class _Kind:
    """What lies there that an engine runs (`form_of`), the package that brings it, and how that is installed."""

    form: str
    package: str
    install: str
    why: str = ""


_ALONE = "; one text after the other, on the CPU"
_KINDS: dict[EngineName, _Kind] = {
    "ctranslate2": _Kind("ctranslate2", "ctranslate2", "instil[serve]", "it is a CTranslate2 export"),
    "llama.cpp": _Kind("gguf", "xllamacpp", "instil[serve]", "it is a GGUF file"),
    "onnx": _Kind("onnx", "onnxruntime_genai", "instil[onnx]", "it is an ONNX export" + _ALONE),
    "openvino": _Kind("openvino", "openvino", "instil[openvino]", "it is an OpenVINO export" + _ALONE),
    "vllm": _Kind("transformers", "vllm", "vllm"),
}
"""All engines but transformers, which is always there."""
_SPECULATING: tuple[EngineName, ...] = ("llama.cpp", "vllm")


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine's name and the reason for it."""

    engine: EngineName
    why: str


def form_of(ref: str) -> str:
    """What lies at `ref`: "gguf", "ctranslate2", "onnx", "openvino", or "transformers" for all that instil's own loader
    reads."""
    path = Path(ref).expanduser()
    if path.suffix == GGUF_SUFFIX:
        return "gguf"
    if (path / "model.xml").is_file():
        return "openvino"
    if any(path.glob("*.onnx")) and not any(path.glob("*.safetensors")):
        return "onnx"
    if (path / "model.bin").is_file() and (path / "config.json").is_file():
        return "ctranslate2"
    return "gguf" if any(path.glob(f"*{GGUF_SUFFIX}")) and not any(path.glob("*.safetensors")) else "transformers"


def choose(ref: str, options: EngineOptions, device: str, *, adapter: Path | None = None) -> Choice:
    """The engine for the model at `ref`, with a LoRA `adapter` over it, on `device`. Raises `ModelError` where the one
    asked for cannot run it."""
    form = form_of(ref)
    if options.engine != "auto":
        _require_form(ref, form, options.engine)
        if options.engine == "vllm" and (against := _against_vllm(ref, adapter)):
            raise ModelError(f"{ref}: vllm {against}; leave --engine out")
        return Choice(options.engine, "as asked")
    if form != "transformers":
        return next(Choice(engine, kind.why) for engine, kind in _KINDS.items() if kind.form == form)
    if device.startswith("cuda") and find_spec("vllm"):
        against = _against_vllm(ref, adapter)
        if against is None:
            return Choice("vllm", f"the device is {device} and vllm is installed")
        return Choice("transformers", f"it is in the transformers format, and vllm {against}")
    hint = "; an export would be smaller: instil export MODEL --to ctranslate2" if device == "cpu" else ""
    return Choice("transformers", f"it is in the transformers format and the device is {device}{hint}")


def _require_form(ref: str, form: str, engine: EngineName) -> None:
    wants = _KINDS[engine].form if engine in _KINDS else "transformers"
    if form != wants and not (engine == "transformers" and form == "gguf"):
        own = wants == "transformers"
        remedy = "give the model's own folder" if own else f"export it first: instil export MODEL --to {wants}"
        raise ModelError(f"{ref}: {engine} cannot run what is there ({form}); {remedy}")


def _against_vllm(ref: str, adapter: Path | None) -> str | None:
    """Why vLLM cannot run the model; None where it can."""
    if adapter is not None:
        return "cannot add an adapter to it"
    if ref.startswith(wheels.PREFIX):
        return "takes folders and hub ids only"
    return "runs decoder-only models only" if kind_of(ref) == "encoder-decoder" else None


def require_use_of_draft(models: Sequence[ModelSpec], options: EngineOptions, device: str) -> None:
    """Raises `ModelError` where the options name a draft that would guess ahead for none of `models`."""
    if options.draft is None:
        return
    others = [spec for spec in models if spec.ref != options.draft]
    if not others:
        raise ModelError("--speculative: a single model has nobody to guess ahead for; name a second one behind it")
    engines = [(spec, choose(spec.ref, options, device, adapter=spec.adapter).engine) for spec in others]
    if not any(_draft(spec.ref, options, engine) for spec, engine in engines):
        runs = ", ".join(f"{spec.name} on {engine}" for spec, engine in engines)
        raise ModelError(
            f"--speculative: {options.draft} ({form_of(options.draft)}) cannot guess ahead for {runs}; give GGUF files "
            "(instil export MODEL --to gguf), or models that vllm runs"
        )


def _draft(ref: str, options: EngineOptions, engine: EngineName) -> str | None:
    """The model that guesses ahead for the one at `ref`: on an engine that knows how, and reads what lies there."""
    draft = options.draft
    fits = draft is not None and engine in _SPECULATING and form_of(draft) == _KINDS[engine].form
    return draft if fits and draft != ref else None


def start(
    spec: ModelSpec, choice: Choice, options: EngineOptions, limits: Limits, device: str, *, models: int = 1
) -> Engine:
    """The engine of `choice`, its weights loaded; `models` share the device. Raises `ModelError`."""
    ref = spec.ref
    if spec.adapter and choice.engine != "transformers":
        raise ModelError(f"{ref}: {choice.engine} cannot add an adapter to it; export the model first")
    kind = _KINDS.get(choice.engine)
    if kind and not find_spec(kind.package):
        raise ModelError(f"{choice.engine} is not installed; run: pip install '{kind.install}'")
    common: dict[str, Any] = {"batch": limits.batch, "threads": options.threads}
    if choice.engine == "ctranslate2":
        from instil.serve.engines.ctranslate2_engine import CTranslate2Engine

        return CTranslate2Engine(Path(ref).expanduser(), device=device, context=options.context, **common)
    if choice.engine == "llama.cpp":
        from instil.serve.engines.llama_engine import LlamaEngine

        draft = _draft(ref, options, choice.engine)
        return LlamaEngine(
            gguf_of(ref), context=options.context, draft=gguf_of(draft) if draft else None,
            draft_tokens=options.draft_tokens, **common,
        )  # fmt: skip
    if choice.engine in ("onnx", "openvino"):
        from instil.serve.engines.stepwise_engine import StepwiseEngine

        return StepwiseEngine(Path(ref).expanduser(), threads=options.threads, context=options.context)
    if choice.engine == "vllm":
        return _start_vllm(ref, options, limits, device, models)
    from instil.serve.engines.transformers_engine import TransformersEngine

    return TransformersEngine(ref, adapter=spec.adapter, device=device, context=options.context, **common)


def gguf_of(ref: str) -> Path:
    """The GGUF file that `ref` names, by itself or by its folder."""
    path = Path(ref).expanduser()
    found = sorted(path.glob(f"*{GGUF_SUFFIX}")) if path.is_dir() else [path]
    if len(found) != 1 or not found[0].is_file():
        raise ModelError(f"{ref}: {'no such file' if not found else 'several GGUF files there'}; name one file")
    return found[0]


def _start_vllm(ref: str, options: EngineOptions, limits: Limits, device: str, models: int) -> Engine:
    from instil.models.loading import load_reader
    from instil.models.preflight import positions
    from instil.serve.engines.child import ChildEngine, ChildServer, free_port, visible_gpu, vllm_command

    draft = _draft(ref, options, "vllm")
    port = free_port()
    reader = load_reader(ref)
    room = room_of(positions(reader.config), options.context)
    command = vllm_command(
        ref, port, context=room, models=models, draft=draft, draft_tokens=options.draft_tokens
    )  # fmt: skip
    server = ChildServer(command, port, environment=visible_gpu(device, os.environ))
    return ChildEngine(server, reader.tokenizer, name="vllm", workers=limits.batch, positions=room)
