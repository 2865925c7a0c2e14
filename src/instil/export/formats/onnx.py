"""ONNX: decoders by the builder of ONNX Runtime GenAI, encoder-decoders by torch's exporter (`onnx_pair.py`).

The builder asks a config for names that transformers 5 has given up; they are put before it here.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from instil.core import publish
from instil.core.errors import ModelError
from instil.export.formats import hf
from instil.export.formats.converting import converting, saving
from instil.export.formats.onnx_tied import share_embedding
from instil.export.student import Student
from instil.models.folders import quiet_transformers
from instil.models.head import describe

MODEL_NAME = "model.onnx"
MODEL_TYPES = ("llama", "mistral", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")
"""The decoders that are proved; the builder knows more."""

_HEAD_SIZES = 16
"""What the size of a head is a multiple of, in ONNX Runtime's attention."""


_FOUR_BITS = {"algo_config": "k_quant", "matmul_mixed_precision": {"last_matmul": "int8", "mixed_layers": "int8"}}
"""Scales by least squares, and eight bits for the head and the layers that llama.cpp's mixtures spare too."""


def write(student: Student, precision: str, folder: Path) -> None:
    """Write the graphs and their weights. Raises `ModelError` for an architecture that is not offered."""
    model = student.loaded.model
    if model.config.is_encoder_decoder:
        with _silence():
            from instil.export.formats.onnx_pair import write_pair

            write_pair(model, precision, folder)
        return
    _require_offered(model)
    # `saving` comes first to see the disk as it was when something failed: the scratch is removed behind it.
    with publish.scratch_folder(folder) as scratch, saving(folder), _silence():
        hf.write(student, "fp32", scratch)
        student.loaded.tokenizer.save_pretrained(scratch)
        with converting(model, "ONNX"):
            _build(scratch, precision, folder)


def _require_offered(model: Any) -> None:
    config = model.config
    if config.model_type not in MODEL_TYPES:
        raise ModelError(
            f"{describe(model)} is not offered as ONNX, which has {', '.join(MODEL_TYPES)} and encoder-decoders;"
            " take ctranslate2 instead"
        )
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size % _HEAD_SIZES:
        raise ModelError(
            f"{describe(model)} has heads of {size} channels, ONNX Runtime wants a multiple of {_HEAD_SIZES};"
            " take ctranslate2 instead"
        )


def _build(source: Path, precision: str, folder: Path) -> None:
    from onnxruntime_genai.models.builder import create_model

    config = _as_asked_for(AutoConfig.from_pretrained(source, local_files_only=True))
    tied = bool(config.tie_word_embeddings)
    options: dict[str, Any] = {
        "hf_details": {"extra_kwargs": {}, "hf_name": str(source), "hf_config": config},
        "hf_token": None,
        "shared_embeddings": tied,
        # A cache as long as a window would refuse texts that are shorter.
        "windowed_kv_cache": False,
    }
    if precision == "int4":
        options |= _FOUR_BITS
        # A tied embedding is then read from the rounded head.
        options["op_types_to_quantize"] = ("MatMul", "Gather") if tied else ("MatMul",)
    create_model("", str(source), str(folder), precision, "cpu", str(source / "cache"), **options)
    if tied and precision == "int8":
        share_embedding(folder / MODEL_NAME)


def _as_asked_for(config: Any) -> Any:
    """`config` with rotary parameters in one layer, and a kind of attention for each layer."""
    rope = config.rope_parameters
    full = dict(rope.get("full_attention", rope))
    config.rope_parameters = {**full, "type": full["rope_type"]}
    if "sliding_attention" in rope:
        config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
    if full["rope_type"] == "default":
        config.original_max_position_embeddings = config.max_position_embeddings
    if getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None):
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    return config


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The builder prints as it goes, and ONNX Runtime's quantiser sets up logging for the whole process when it is
    imported."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    said = io.StringIO()
    try:
        with quiet_transformers(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    finally:
        root.removeHandler(handler)
