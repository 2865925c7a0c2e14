"""Engines that run exports, each as a `Generator`. Serving, with queues and streams, is elsewhere."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from instil.core.errors import ConfigError
from instil.export.engines.engine import Engine
from instil.export.sheet import Format, read_sheet

_ENGINES: dict[Format, tuple[str, str, str]] = {
    "hf": ("hf", "TransformersEngine", ""),
    "ctranslate2": ("ctranslate2", "CTranslate2Engine", "ctranslate2"),
    "gguf": ("llama_cpp", "LlamaCppEngine", "gguf"),
    "onnx": ("onnx", "OnnxEngine", "onnx"),
    "openvino": ("openvino", "OpenVinoEngine", "openvino"),
}
"""For each format: the module, its class, and the extra of the package that brings its libraries."""


def open_engine(folder: Path, **options: Any) -> Engine:
    """The export in `folder`, in the engine of its format, which takes the `options`.

    Raises `ModelError` for a folder that is no export, `ConfigError` where the engine's library is not installed.
    """
    target = read_sheet(folder).format
    module, name, extra = _ENGINES[target]
    try:
        engine = getattr(import_module(f"instil.export.engines.{module}"), name)
        return engine(folder, **options)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("instil"):
            raise
        raise ConfigError(
            f"{target} needs {error.name}, which is not installed; pip install 'instil[{extra}]'"
        ) from error
