"""The slow, obvious `instil.objectives.fused.row_loss`: dense, one row after the other, fp64, plain autograd.

It shares no line with the fused one: softmax, partition and smoothing are written out from their definitions.
Shape letters: N rows, D width, V valid vocabulary, K head entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instil.objectives.fused import Mix, Projection, SparseLabels


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


def partition_kl(logits_V: Tensor, ids_K: Tensor, probs_K: Tensor, temperature: float) -> Tensor:
    """Forward KL of one row over {each head id, all other ids}."""
    log_q_V = torch.log_softmax(logits_V / temperature, -1)
    label = {int(i): float(p) for i, p in zip(ids_K, probs_K, strict=True) if 0 <= i < len(logits_V)}
    others = [index for index in range(len(logits_V)) if index not in label]
    tail = 1 - sum(label.values())
    if not others:
        label = {index: p / sum(label.values()) for index, p in label.items()}
        tail = 0.0
    cells = [(p, log_q_V[index]) for index, p in label.items()]
    if tail > 0:
        cells.append((tail, torch.logsumexp(log_q_V[others], -1)))
    divergence = logits_V.new_zeros(())
    for p, log_q in cells:
        if p > 0:
            divergence = divergence + p * (torch.tensor(p, dtype=torch.float64).log() - log_q)
    return divergence


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
            one = partition_kl(logits_V, labels.ids_NK[row], labels.probs_NK[row].double(), mix.temperature)
            part, soft = part + mix.soft * mix.temperature**2 * one, soft + one
        if mix.hard or not mix.soft:
            one = cross_entropy(logits_V, int(target_N[row]), mix.smoothing)
            part, hard = part + mix.hard * one, hard + one
        total = total + part * (1 if weight_N is None else weight_N[row])
    return DenseSums(total=total, soft=soft, hard=hard)
