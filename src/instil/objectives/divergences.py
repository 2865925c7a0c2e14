"""Divergences between two distributions over the cells of a partition, with their gradients.

Shape letters: C rows, K cells of a row. p is the teacher's distribution over the cells, q the student's.

Each is a sum over cells of f(p, q). With g = df/dq, the gradient of the sum with respect to the logits of the student's
softmax over the vocabulary is, for an id v of cell i that has the share q_v of its cell's mass q_i,

    q_v * (g_i - sum_j q_j g_j)

so a divergence needs to tell no more than its value and q_j g_j, which stays finite where q_j is 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from instil.objectives.config import Divergence

TINY = 1e-30
"""The least probability that a logarithm is taken of."""


def divergence(
    kind: Divergence, beta: float, p_CK: Float[Tensor, "c k"], log_q_CK: Float[Tensor, "c k"], *, least: float = TINY
) -> tuple[Float[Tensor, " c"], Float[Tensor, "c k"]]:
    """Value of each row in nats, shape `(C,)`, and q * df/dq of each cell, shape `(C, K)`.

    - `forward_kl`: sum p log(p / q). Covers all that the teacher does.
    - `reverse_kl`: sum q log(q / p). Avoids what the teacher avoids. A cell that the teacher gives less than `least`
      counts as that: a label's 0 only says that it is below half a unit of its codec.
    - `jsd`: beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (Agarwal et al. 2023, arXiv
      2306.13649). beta -> 0: beta x forward KL; beta -> 1: (1 - beta) x reverse KL.
    - `skew_kl`: KL(p || beta p + (1 - beta) q); `skew_reverse_kl`: KL(q || (1 - beta) p + beta q) (Ko et al. 2024,
      arXiv 2402.03898). beta -> 0 is the forward KL and the reverse KL.
    - `total_variation`: half the sum of |p - q|.

    `beta` is read by jsd and the skew divergences alone, and lies between 0 and 1, neither included.
    """
    q_CK = log_q_CK.exp()
    if kind == "forward_kl":
        return (torch.xlogy(p_CK, p_CK) - p_CK * log_q_CK).sum(-1), -p_CK
    if kind == "reverse_kl":
        ratio_CK = log_q_CK - p_CK.clamp_min(least).log()
        return (q_CK * ratio_CK).sum(-1), q_CK * (ratio_CK + 1)
    if kind == "total_variation":
        difference_CK = p_CK - q_CK
        return 0.5 * difference_CK.abs().sum(-1), -0.5 * q_CK * difference_CK.sign()
    if kind == "skew_reverse_kl":
        middle_CK = ((1 - beta) * p_CK + beta * q_CK).clamp_min(TINY)
        ratio_CK = log_q_CK - middle_CK.log()
        return (q_CK * ratio_CK).sum(-1), q_CK * (ratio_CK + 1 - beta * q_CK / middle_CK)
    middle_CK = (beta * p_CK + (1 - beta) * q_CK).clamp_min(TINY)
    log_middle_CK = middle_CK.log()
    if kind == "skew_kl":
        value_CK = torch.xlogy(p_CK, p_CK) - p_CK * log_middle_CK
        return value_CK.sum(-1), -(1 - beta) * p_CK * (q_CK / middle_CK)
    ratio_CK = log_q_CK - log_middle_CK
    to_p_CK = torch.xlogy(p_CK, p_CK) - p_CK * log_middle_CK
    return (beta * to_p_CK + (1 - beta) * q_CK * ratio_CK).sum(-1), (1 - beta) * q_CK * ratio_CK
