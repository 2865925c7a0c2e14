"""Lets a decoder that the builder rounded to eight bits read its tied embedding from the rounded head.

The builder does so for four bits alone, and would leave the embedding beside the head in 32 bits.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

_LOOKUP, _HEAD = "/model/embed_tokens/Gather", "/lm_head/MatMul_Q8"


def share_embedding(path: Path) -> None:
    """Rewrite the graph at `path` and its weights, unless the head's rows are padded to whole blocks."""
    model: Any = onnx_ir.load(path)
    nodes = {node.name: node for node in model.graph}
    lookup, head = nodes[_LOOKUP], nodes[_HEAD]
    embedding, ids = lookup.inputs
    width, block = embedding.shape[1], head.attributes["block_size"].as_int()
    if width % block:
        return
    _, packed, scales = head.inputs[:3]
    found = _lookup(model.graph, lookup, ids, packed, scales, width=width, block=block)
    lookup.outputs[0].replace_all_uses_with(found)
    model.graph.remove(lookup, safe=True)
    del model.graph.initializers[embedding.name]
    # The weights are read from the file that is about to be replaced.
    onnx_ir.external_data.load_to_model(model)
    onnx_ir.save(model, path, external_data=f"{path.name}.data")


def _lookup(graph: Any, before: Any, ids: Any, packed: Any, scales: Any, *, width: int, block: int) -> Any:
    rows = math.prod(packed.shape) // width
    shape = onnx_ir.val("embedding_rows", const_value=onnx_ir.tensor(np.array([rows, width]), name="embedding_rows"))
    graph.register_initializer(shape)
    flat = onnx_ir.node("Reshape", [packed, shape])
    read = onnx_ir.node(
        "GatherBlockQuantized", [flat.outputs[0], ids, scales], domain="com.microsoft",
        attributes={"bits": 8, "block_size": block, "gather_axis": 0, "quantize_axis": 1},
    )  # fmt: skip
    graph.insert_before(before, [flat, read])
    return read.outputs[0]
