"""Losses between what student and teacher compute on the way, at the same positions.

Shape letters: N positions, D width, H heads, B batch, T time, F channels of all heads together.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from instil.objectives.config import FeatureLoss


def feature_loss(
    kind: FeatureLoss,
    student_ND: Float[Tensor, "n d"],
    teacher_ND: Float[Tensor, "n d"],
    weight_N: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Sum over N positions, each times its weight, without unit; gradients reach `student_ND` alone.

    - `mse`: the squared error relative to the teacher's squared length, |s - t|^2 / |t|^2, so that neither width nor
      the scale of an architecture's hidden states matters: 0 where they agree, 1 for a student that says nothing. Up
      to that factor, the hidden loss of TinyBERT (Jiao et al. 2019, arXiv 1909.10351).
    - `cosine`: 1 - cos(s, t), from 0 to 2, which leaves lengths free (DistilBERT, Sanh et al. 2019, arXiv 1910.01108).
    """
    own_ND, their_ND = student_ND.float(), teacher_ND.detach().float()
    if kind == "cosine":
        return _sum(1 - nn.functional.cosine_similarity(own_ND, their_ND, dim=-1), weight_N)
    length_N = their_ND.square().sum(-1).clamp_min(1e-12)
    return _sum((own_ND - their_ND).square().sum(-1) / length_N, weight_N)


def attention_loss(
    student_NHT: Float[Tensor, "n h t"],
    teacher_NHT: Float[Tensor, "n other_h t"],
    weight_N: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Sum over N positions, each times its weight, of the squared distance between the two attention maps, without
    unit, from 0 to 2: what a position gives to each of T, the mean over heads, brought to length 1.

    Attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928), whose maps are of a vision model's channels.
    The mean over heads lets their numbers differ. Gradients reach `student_NHT` alone.
    """
    maps = (student_NHT.float().mean(1), teacher_NHT.detach().float().mean(1))
    own_NT, their_NT = (nn.functional.normalize(map_NT, dim=-1, eps=1e-12) for map_NT in maps)
    return _sum((own_NT - their_NT).square().sum(-1), weight_N)


def relations(
    states_BTF: Float[Tensor, "b t f"], index_N: Int[Tensor, " n"], heads: int
) -> Float[Tensor, "n {heads} t"]:
    """How the states at N positions, `index_N` of the flat `(B * T)`, go with all those of their example: products over
    the F / `heads` channels of each group, divided by the root of their number. `heads` divides F."""
    split_BTHE = states_BTF.float().reshape(*states_BTF.shape[:2], heads, -1)
    products_BTHT = torch.einsum("bthe,bshe->bths", split_BTHE, split_BTHE) / split_BTHE.shape[-1] ** 0.5
    found_NHT: Tensor = products_BTHT.flatten(0, 1).index_select(0, index_N)
    return found_NHT


def relation_loss(
    student_NHT: Float[Tensor, "n h t"],
    teacher_NHT: Float[Tensor, "n h t"],
    visible_NT: Bool[Tensor, "n t"],
    weight_N: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Sum over N positions, each times its weight, of KL(teacher || student) between softmaxes of `relations` over the
    positions that are visible, the mean over heads, in nats.

    Of values: MiniLM (Wang et al. 2020, arXiv 2002.10957); of queries and keys too, and with heads of its own number:
    MiniLMv2 (2012.15828). Widths may differ. Gradients reach `student_NHT` alone.
    """
    hidden_N1T = ~visible_NT[:, None]
    own_NHT, their_NHT = (
        products_NHT.masked_fill(hidden_N1T, -torch.inf).log_softmax(-1).masked_fill(hidden_N1T, 0)
        for products_NHT in (student_NHT, teacher_NHT.detach())
    )
    probs_NHT = their_NHT.exp().masked_fill(hidden_N1T, 0)
    return _sum((probs_NHT * (their_NHT - own_NHT)).sum(-1).mean(-1), weight_N)


def _sum(loss_N: Tensor, weight_N: Tensor | None) -> Tensor:
    return (loss_N if weight_N is None else loss_N * weight_N).sum()
