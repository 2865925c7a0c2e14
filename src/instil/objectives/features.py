"""Losses between hidden states of student and teacher at the same rows.

Shape letters: N rows, D width.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from instil.objectives.config import FeatureLoss


def feature_loss(
    kind: FeatureLoss, student_ND: Float[Tensor, "n d"], teacher_ND: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    """Sum over N rows, without unit; gradients reach `student_ND` alone.

    - `mse`: the squared error relative to the teacher's squared length, |s - t|^2 / |t|^2, so that neither width nor
      the scale of an architecture's hidden states matters: 0 where they agree, 1 for a student that says nothing. Up
      to that factor, the hidden loss of TinyBERT (Jiao et al. 2019, arXiv 1909.10351).
    - `cosine`: 1 - cos(s, t), from 0 to 2, which leaves lengths free (DistilBERT, Sanh et al. 2019, arXiv 1910.01108).
    """
    own_ND, their_ND = student_ND.float(), teacher_ND.detach().float()
    if kind == "cosine":
        return (1 - nn.functional.cosine_similarity(own_ND, their_ND, dim=-1)).sum()
    length_N = their_ND.square().sum(-1).clamp_min(1e-12)
    return ((own_ND - their_ND).square().sum(-1) / length_N).sum()
