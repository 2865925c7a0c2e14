"""The slow, obvious `instil.objectives.fused.row_loss`: dense, one row after the other, fp64, plain autograd.

It shares no line with the fused one: softmax, partition and smoothing are written out from their definitions.
Shape letters: N rows, D width, V valid vocabulary, K head entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instil.objectives.fused import Mix, Projection
from instil.objectives.sparse import SparseLabels


@dataclass(frozen=True, kw_only=True)
class DenseSums:
    """What `LossSums` holds, as fp64 tensors with a graph behind them."""

    total: Tensor
    soft: Tensor
    hard: Tensor


def dense_logits(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, projection: Projection) -> Tensor:
    """`softcap(scale * hidden @ weight.T + bias)`, the first `n_valid` columns."""
    logits_NV = projection.scale * (hidden_ND @ weight_VD.T)
    if bias_V is not None:
        logits_NV = logits_NV + bias_V
    if projection.softcap is not None:
        logits_NV = projection.softcap * torch.tanh(logits_NV / projection.softcap)
    return logits_NV[:, : projection.n_valid]


def dense_divergence(kind: str, beta: float, p_K: Tensor, log_q_K: Tensor, least: float) -> Tensor:
    """The divergence of two distributions over K cells from its definition; 0 log 0 is 0, and log 0 is log 1e-30."""

    def kl(a_K: Tensor, log_a_K: Tensor, log_b_K: Tensor) -> Tensor:
        return torch.where(a_K > 0, a_K * (log_a_K - log_b_K), 0.0).sum()

    q_K, log_p_K = log_q_K.exp(), p_K.clamp_min(least if kind == "reverse_kl" else 1e-30).log()
    log_middle_K = (beta * p_K + (1 - beta) * q_K).clamp_min(1e-30).log()
    match kind:
        case "forward_kl":
            return kl(p_K, log_p_K, log_q_K)
        case "reverse_kl":
            return kl(q_K, log_q_K, log_p_K)
        case "jsd":
            return beta * kl(p_K, log_p_K, log_middle_K) + (1 - beta) * kl(q_K, log_q_K, log_middle_K)
        case "skew_kl":
            return kl(p_K, log_p_K, log_middle_K)
        case "skew_reverse_kl":
            return kl(q_K, log_q_K, ((1 - beta) * p_K + beta * q_K).clamp_min(1e-30).log())
        case "total_variation":
            return (p_K - q_K).abs().sum() / 2
    raise ValueError(kind)


def partition_divergence(logits_V: Tensor, ids_K: Tensor, probs_K: Tensor, mix: Mix) -> Tensor:
    """Divergence of one row over {each head id, all other ids}."""
    temperature = mix.temperature
    log_q_V = torch.log_softmax(logits_V / temperature, -1)
    if mix.ranked:
        log_q_V = log_q_V.sort(descending=True).values  # Then an id is a rank.
    label = {int(i): float(p) for i, p in zip(ids_K, probs_K, strict=True) if 0 <= i < len(logits_V)}
    others = [index for index in range(len(logits_V)) if index not in label]
    tail = 1 - sum(label.values())
    if not others:
        label = {index: p / sum(label.values()) for index, p in label.items()}
        tail = 0.0
    cells = [(p, log_q_V[index]) for index, p in label.items()]
    if others:
        cells.append((max(tail, 0.0), torch.logsumexp(log_q_V[others], -1)))
    p_K = torch.tensor([p for p, _ in cells], dtype=torch.float64)
    return dense_divergence(mix.divergence, mix.beta, p_K, torch.stack([log_q for _, log_q in cells]), mix.least)


def cross_entropy(logits_V: Tensor, target: int, smoothing: float) -> Tensor:
    """Cross-entropy of one row with the target's one-hot, mixed with the uniform distribution."""
    log_q_V = torch.log_softmax(logits_V, -1)
    wanted_V = torch.full_like(log_q_V, smoothing / len(log_q_V))
    wanted_V[target] += 1 - smoothing
    return -(wanted_V * log_q_V).sum()


def dense_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    *,
    mix: Mix,
    projection: Projection | None = None,
    bias_V: Tensor | None = None,
    labels: SparseLabels | None = None,
    weight_N: Tensor | None = None,
) -> DenseSums:
    """Sums over rows; the arguments must be fp64, those that want a gradient leaves."""
    logits_NV = dense_logits(hidden_ND, weight_VD, bias_V, projection or Projection())
    total = soft = hard = (hidden_ND.sum() + weight_VD.sum()) * 0
    for row, logits_V in enumerate(logits_NV):
        part = logits_V.new_zeros(())
        if labels is not None and mix.soft:
            one = partition_divergence(logits_V, labels.ids_NK[row], labels.probs_NK[row].double(), mix)
            part, soft = part + mix.soft * mix.temperature**2 * one, soft + one
        if mix.hard or not mix.soft or (labels is not None and mix.temperature == 1):
            one = cross_entropy(logits_V, int(target_N[row]), mix.smoothing)
            part, hard = part + mix.hard * one, hard + one
        total = total + part * (1 if weight_N is None else weight_N[row])
    return DenseSums(total=total, soft=soft, hard=hard)
