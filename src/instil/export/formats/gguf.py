"""GGUF, llama.cpp's format, by the `gguf` package: its writer, its names of tensors, its quantisation where it has one.

What llama.cpp expects of an architecture beside names is said here once: Llama's queries and keys in another order,
Gemma's norms with their one added, GPT-2's matrices the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers.pytorch_utils import Conv1D

from instil.core.errors import ModelError
from instil.export.formats.gguf_quants import quantised, type_of
from instil.export.formats.gguf_tokens import add_tokens
from instil.export.student import Student
from instil.models.head import describe

MODEL_NAME = "model.gguf"
_ARCH = gguf.MODEL_ARCH
_Change = Callable[[str, NDArray[Any], Any], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Kind:
    """An architecture in llama.cpp: its name there, whether it normalises by root mean squares, and what becomes of
    tensors on the way."""

    arch: gguf.MODEL_ARCH
    rms: bool = True
    change: _Change = lambda name, array, config: array


def _pairwise(name: str, array: NDArray[Any], config: Any) -> NDArray[Any]:
    """Llama's rotary positions turn neighbours there, not halves: rows of queries and keys change places."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((count for part, count in heads.items() if f".{part}." in name), None)
    if count is None:
        return array
    halves = array.reshape(count, 2, array.shape[0] // count // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _norm_plus_one(name: str, array: NDArray[Any], config: Any) -> NDArray[Any]:
    return array + 1 if name.endswith("norm.weight") else array


_KINDS = {
    "llama": _Kind(_ARCH.LLAMA, change=_pairwise),
    "mistral": _Kind(_ARCH.LLAMA, change=_pairwise),
    "smollm3": _Kind(_ARCH.SMOLLM3, change=_pairwise),
    "qwen2": _Kind(_ARCH.QWEN2),
    "qwen3": _Kind(_ARCH.QWEN3),
    "gemma": _Kind(_ARCH.GEMMA, change=_norm_plus_one),
    "gemma2": _Kind(_ARCH.GEMMA2, change=_norm_plus_one),
    "gemma3_text": _Kind(_ARCH.GEMMA3, change=_norm_plus_one),
    "phi3": _Kind(_ARCH.PHI3),
    "gpt2": _Kind(_ARCH.GPT2, rms=False),
}


def write(student: Student, precision: str, folder: Path) -> None:
    """Write `model.gguf`. Raises `ModelError` for an architecture, a tokenizer or positions that are not offered."""
    model = student.loaded.model
    kind = _KINDS.get(model.config.model_type)
    if kind is None:
        raise ModelError(
            f"{describe(model)} is not offered as GGUF, which has {', '.join(_KINDS)}; take ctranslate2 instead"
        )
    writer = gguf.GGUFWriter(folder / MODEL_NAME, gguf.MODEL_ARCH_NAMES[kind.arch])
    try:
        _add_settings(writer, student, kind, precision)
        add_tokens(writer, student)
        for name, array in _tensors(model, kind):
            target = type_of(name, array.shape, precision, layers=model.config.num_hidden_layers, tied=_tied(model))
            writer.add_tensor(name, quantised(array, target), raw_dtype=target)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_settings(writer: gguf.GGUFWriter, student: Student, kind: _Kind, precision: str) -> None:
    config, prompt = student.loaded.model.config, student.prompt
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(student.name)
    writer.add_license(student.loaded.licence)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", heads))
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_vocab_size(config.vocab_size)
    if kind.rms:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    _add_positions(writer, student, head_size)
    _add_attention(writer, config)
    writer.add_file_type(_FILE_TYPES[precision])
    # llama.cpp has no place for it; a reader of the file finds it here.
    writer.add_string("instil.prompt.kind", prompt.kind)
    writer.add_string("instil.prompt.text", prompt.text)


_FILE_TYPES = {
    "fp32": gguf.LlamaFileType.ALL_F32, "fp16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q6_k": gguf.LlamaFileType.MOSTLY_Q6_K,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0, "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}  # fmt: skip


def _add_positions(writer: gguf.GGUFWriter, student: Student, head_size: int) -> None:
    config = student.loaded.model.config
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return
    full = rope.get("full_attention", rope)
    writer.add_rope_dimension_count(int(head_size * full.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(full["rope_theta"])
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    way = full.get("rope_type", "default")
    if way == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(full["factor"])
    elif way != "default":
        raise ModelError(
            f"{describe(student.loaded.model)} scales its positions by {way!r}, which is not offered as GGUF; take"
            " ctranslate2 instead"
        )


def _add_attention(writer: gguf.GGUFWriter, config: Any) -> None:
    if config.model_type == "phi3" or ("layer_types" in config and getattr(config, "sliding_window", None)):
        writer.add_sliding_window(getattr(config, "sliding_window", None) or 0)
    if config.model_type.startswith("gemma") and getattr(config, "layer_types", None):
        writer.add_sliding_window_pattern([layer == "sliding_attention" for layer in config.layer_types])
    if cap := getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(cap)
    if cap := getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(cap)


def _tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _tensors(model: Any, kind: _Kind) -> Iterator[tuple[str, NDArray[np.float32]]]:
    names = gguf.get_tensor_name_map(kind.arch, model.config.num_hidden_layers)
    turned = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and _tied(model):
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(f"{describe(model)}: GGUF has no name for its {name}; take ctranslate2 instead")
        array = kind.change(name, tensor.float().cpu().numpy(), model.config)
        yield found, np.ascontiguousarray(array.T if name in turned else array)
