"""Which tensor of a GGUF file gets which type, and the conversion to it.

The types and what becomes of tensors whose rows do not fit their blocks are llama.cpp's own choices
(src/llama-quant.cpp, read in November 2026), so that "q4_k_m" means here what it means there. The `gguf` package turns
weights into the plain types; for those in super-blocks (k-quants) the function of the engine itself is called, which
the library of xllamacpp exports.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from instil.core.errors import ConfigError

_TYPE = gguf.GGMLQuantizationType
_PLAIN = {"fp32": _TYPE.F32, "fp16": _TYPE.F16, "bf16": _TYPE.BF16, "q8_0": _TYPE.Q8_0, "q4_0": _TYPE.Q4_0}
_FALLBACK = {_TYPE.Q4_K: _TYPE.Q5_0, _TYPE.Q5_K: _TYPE.Q5_1, _TYPE.Q6_K: _TYPE.Q8_0}
_SUPER = (_TYPE.Q4_K, _TYPE.Q5_K, _TYPE.Q6_K)


def type_of(name: str, shape: tuple[int, ...], precision: str, *, layers: int, tied: bool) -> gguf.GGMLQuantizationType:
    """The type of the tensor `name` in a file of this `precision`. `tied`: the embedding is the output matrix too."""
    if len(shape) < 2 or name.endswith("_norm.weight") or name == "position_embd.weight":
        return _TYPE.F32
    chosen = _wanted(name, precision, layers, tied)
    for _ in range(2):
        if shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0] == 0:
            return chosen
        chosen = _FALLBACK.get(chosen, _TYPE.F16)
    return chosen


def _wanted(name: str, precision: str, layers: int, tied: bool) -> gguf.GGMLQuantizationType:
    if precision in _PLAIN:
        plain = _PLAIN[precision]
        return _TYPE.Q6_K if plain == _TYPE.Q4_0 and _is_output(name, tied) else plain
    if precision == "q6_k":
        return _TYPE.Q6_K
    if _is_output(name, tied):
        return _TYPE.Q6_K
    if "attn_qkv" in name:
        return _TYPE.Q5_K
    if ("attn_v." in name or "ffn_down." in name) and _delicate(name, layers):
        return _TYPE.Q6_K
    return _TYPE.Q4_K


def _is_output(name: str, tied: bool) -> bool:
    return name == "output.weight" or (tied and name == "token_embd.weight")


def _delicate(name: str, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    found = re.match(r"blk\.(\d+)\.", name)
    number, eighth = int(found[1]) if found else 0, layers // 8
    return number < eighth or number >= 7 * layers // 8 or (number - eighth) % 3 == 2


def quantised(array: NDArray[np.float32], target: gguf.GGMLQuantizationType) -> NDArray[Any]:
    """`array` in the type `target`. Raises `ConfigError` for a k-quant where xllamacpp is not installed."""
    if target not in _SUPER:
        return gguf.quants.quantize(array, target)
    rows = array.reshape(-1, array.shape[-1]).astype(np.float32, order="C", copy=False)
    made = np.empty(gguf.quants.quant_shape_to_byte_shape(rows.shape, target), dtype=np.uint8)
    written = _library().ggml_quantize_chunk(
        int(target), rows.ctypes.data_as(ctypes.c_void_p), made.ctypes.data_as(ctypes.c_void_p), 0, rows.shape[0],
        rows.shape[1], None,
    )  # fmt: skip
    assert written == made.nbytes
    return made.reshape(*array.shape[:-1], -1)


@cache
def _library() -> Any:
    try:
        import xllamacpp
    except ModuleNotFoundError as error:
        raise ConfigError("this precision needs xllamacpp; pip install 'instil[gguf]', or choose q8_0") from error
    (path,) = Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(path))
    try:
        function = library.ggml_quantize_chunk
    except AttributeError as error:
        raise ConfigError(f"xllamacpp {xllamacpp.__version__} hides its quantisation; choose q8_0, q4_0") from error
    number, place = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [ctypes.c_int, place, place, number, number, number, place]
    function.restype = ctypes.c_size_t
    return library
