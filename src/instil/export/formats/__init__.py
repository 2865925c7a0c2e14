"""Writers of formats: each turns a student into files, by the format's own tools."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from instil.core.errors import ConfigError
from instil.export.sheet import Format
from instil.export.student import Student

PRECISIONS: dict[Format, tuple[str, ...]] = {
    "hf": ("fp32", "fp16", "bf16"),
    "ctranslate2": ("int8", "fp32", "fp16", "bf16"),
    "gguf": ("q8_0", "q4_k_m", "q6_k", "q4_0", "fp32", "fp16", "bf16"),
    "onnx": ("int8", "int4", "fp32"),
    "openvino": ("fp32", "fp16"),
}
"""What each format offers; the first is the default."""

EXTRAS: dict[Format, str] = {"ctranslate2": "ctranslate2", "gguf": "gguf", "onnx": "onnx", "openvino": "openvino"}
"""The extra of this package that brings a format's libraries."""


def precision_of(target: Format, precision: str | None) -> str:
    """`precision`, or the format's default. Raises `ConfigError` for one that the format has not."""
    offered = PRECISIONS[target]
    if precision is not None and precision not in offered:
        raise ConfigError(f"{target} has no precision {precision!r}; choose one of {', '.join(offered)}")
    return precision or offered[0]


def write_format(student: Student, target: Format, precision: str, folder: Path) -> None:
    """Write the weights of `student` into `folder`. Raises `ModelError` for an architecture that the format has not,
    `ConfigError` where its library is not installed."""
    try:
        import_module(f"instil.export.formats.{target}").write(student, precision, folder)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("instil"):
            raise
        extra = EXTRAS.get(target, target)
        raise ConfigError(
            f"{target} needs {error.name}, which is not installed; pip install 'instil[{extra}]'"
        ) from error
