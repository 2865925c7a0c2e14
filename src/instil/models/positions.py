"""The positions of a batch at which a student can be held against its teacher beyond its logits. Padding is never one.

Shapes: N rows, P positions, B batch, T time of the sequence that they stand in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from instil.models.family import Batch


@dataclass(frozen=True, slots=True)
class Positions:
    """`index_P`: places in the flat `(B * T)`. `weight_P`: how much each counts. `visible_PT`: which positions of its
    own example each sees."""

    index_P: Int[Tensor, " P"]
    weight_P: Float[Tensor, " P"]
    visible_PT: Bool[Tensor, "P T"]


def target_positions(batch: Batch) -> Positions:
    """The rows of `batch`, one each; a row sees itself and what stands before it."""
    inputs = batch.inputs
    own = "decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask"
    mask_BT = inputs[own].bool()
    width = mask_BT.shape[1]
    time_N = batch.row_index_N % width
    before_NT = torch.arange(width, device=time_N.device) <= time_N[:, None]
    ones_N = torch.ones(len(time_N), device=time_N.device)
    return Positions(batch.row_index_N, ones_N, before_NT & mask_BT[batch.row_index_N // width])


def source_positions(batch: Batch) -> Positions:
    """What an encoder reads. The positions of an example count together as much as its rows, so that the sum over a
    batch is that over its examples; each sees all of its example."""
    mask_BT = batch.inputs["attention_mask"].bool()
    index_P = mask_BT.flatten().nonzero()[:, 0]
    example_P = index_P // mask_BT.shape[1]
    rows_B = batch.example_N.bincount(minlength=len(mask_BT))
    share_B = rows_B / mask_BT.sum(-1).clamp_min(1)
    return Positions(index_P, share_B[example_P], mask_BT[example_P])
