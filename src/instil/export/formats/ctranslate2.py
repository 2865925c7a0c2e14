"""CTranslate2's own converter, given the student as it is in memory.

Its loaders were written for older versions of transformers: they ask a config for names that are gone, and the
tokenizer for one token an id. Both are put before them here.

Eight bits are rounded here too. Processors without VNNI (before Ice Lake and Zen 4) add two products in 16 bits, which
overflow where weights take all 127 steps on each side of zero; 96 leave room for nearly all sums.

Shape letters: O outputs, I inputs.
"""

from __future__ import annotations

import copy
import platform
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ctranslate2.converters import transformers as loaders
from ctranslate2.specs.model_spec import NumpyVariable, Variable, visit_spec

from instil.export.formats.converting import converting
from instil.export.student import Student

_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float32"}

_STEPS, _STEPS_OF_NARROW_SUMS = 127, 96
_PROCESSOR = Path("/proc/cpuinfo")
_NOTHING = 1e-30
"""A row of weights no larger than this is zero; its scale would be beyond fp32."""


def write(student: Student, precision: str, folder: Path) -> None:
    """Write `model.bin` and the vocabulary into `folder`.

    Raises `ModelError` for an architecture that CTranslate2 does not have.
    """
    with converting(student.loaded.model, "CTranslate2"):
        spec = _spec(student)
        spec.validate()
        spec.optimize(_TYPES[precision])
        if precision == "int8":
            visit_spec(spec, partial(_round, _steps()))
        folder.mkdir(parents=True, exist_ok=True)
        spec.save(str(folder))


def _spec(student: Student) -> Any:
    kind = type(student.loaded.model.config).__name__
    loader = _loader(kind)
    if loader is None:
        raise ValueError(f"it has no loader for {kind}")
    # Some loaders take the model apart.
    model = copy.deepcopy(student.loaded.model).float()
    _with_factors(model)
    model.config = _OlderConfig(model)
    tokenizer = _one_token_an_id(student)
    with torch.no_grad():
        spec = loader(model, tokenizer)
    spec.config.eos_token = tokenizer.convert_ids_to_tokens(student.sheet("ctranslate2", "").alphabet.ends[0])
    return spec


def _round(steps: int, layer: Any, scope: str, value: Any) -> None:
    """Turns a matrix of `layer` into whole numbers up to `steps`, a scale for each row, as CTranslate2 reads them."""
    name = scope.rsplit("/", 1)[-1]
    if not isinstance(value, Variable) or value.is_scalar() or not hasattr(layer, f"{name}_scale"):
        return
    weight_OI = value.to("float32").numpy()
    largest_O1 = np.abs(weight_OI).max(1, keepdims=True)
    scale_O1 = (steps / np.where(largest_O1 > _NOTHING, largest_O1, 1.0)).astype(np.float32)
    setattr(layer, name, NumpyVariable(np.rint(weight_OI * scale_O1).astype(np.int8)))
    setattr(layer, f"{name}_scale", NumpyVariable(scale_O1[:, 0]))


def _steps() -> int:
    with suppress(OSError):
        return steps_on(platform.machine(), _PROCESSOR.read_text())
    return _STEPS


def steps_on(machine: str, processor: str) -> int:
    """How many steps a weight has on each side of zero on such a machine, whose `processor` tells of itself so."""
    narrow = machine in ("x86_64", "AMD64") and "avx2" in processor and "vnni" not in processor
    return _STEPS_OF_NARROW_SUMS if narrow else _STEPS


def _loader(kind: str) -> Any:
    # Marian's own drops the last row of the embedding, taking it for padding, which a trimmed one may not end with;
    # its layers are BART's.
    return loaders.BartLoader() if kind == "MarianConfig" else loaders._MODEL_LOADERS.get(kind)


def _with_factors(model: Any) -> None:
    """Phi's factors of long texts, on each layer as they once were."""
    if model.config.model_type != "phi3":
        return
    rope = model.config.rope_parameters or {}
    factors = SimpleNamespace(long_factor=rope.get("long_factor"), short_factor=rope.get("short_factor"))
    for layer in model.model.layers:
        layer.self_attn.rotary_emb = factors


class _OlderConfig:
    """A model's config with names that transformers 5 has given up."""

    def __init__(self, model: Any) -> None:
        self._config = model.config
        encoder = getattr(getattr(model, "model", None), "encoder", None)
        if encoder is not None:
            self.normalize_before = hasattr(encoder, "layer_norm")
            self.normalize_embedding = hasattr(encoder, "layernorm_embedding")
        rope = getattr(model.config, "rope_parameters", None) or {}
        full = rope.get("full_attention", rope)
        if full:
            scaled = full.get("rope_type", "default") != "default"
            self.rope_theta = full["rope_theta"]
            self.rope_scaling = {**full, "type": full["rope_type"]} if scaled else None
        if model.config.model_type in ("t5", "mt5"):
            # What the name meant: whether the decoder's outputs are scaled.
            self.tie_word_embeddings = getattr(model.config, "scale_decoder_outputs", False)
        if "sliding_attention" in rope:
            self.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def _one_token_an_id(student: Student) -> Any:
    """A copy of the tokenizer with names for ids that only the embedding has, and for signs that it lacks: the
    converter writes them all down, though none is ever looked up."""
    tokenizer = copy.deepcopy(student.loaded.tokenizer)
    size = student.sheet("ctranslate2", "").vocabulary
    if sorted(tokenizer.get_vocab().values()) != list(range(len(tokenizer))) or len(tokenizer) > size:
        raise ValueError(f"its {len(tokenizer)} tokens have no ids from 0 on within the embedding's {size}")
    tokenizer.add_tokens([f"<unused{number}>" for number in range(len(tokenizer), size)])
    for sign in ("unk_token", "bos_token"):
        if getattr(tokenizer, sign) is None:
            setattr(tokenizer, sign, tokenizer.eos_token)
    return tokenizer
