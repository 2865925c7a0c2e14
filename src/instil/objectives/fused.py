"""Head, divergence and cross-entropy over rows in one pass, chunk by chunk: no [rows, vocabulary] tensor survives.

Shape letters: N rows, D width, V vocabulary, C rows of one chunk.

The teacher's labels know their own divergence from a chunk's logits: stored ones (sparse.py), or those of a teacher in
memory (dense.py). The gradient is known when the loss is, so the backward pass only scales it: the logits of a chunk
are made once. At temperature 1, soft and hard loss share one softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from instil.objectives.config import Divergence
from instil.objectives.divergences import TINY

DEFAULT_CHUNK = 512
Soft = tuple[Tensor, Tensor, Tensor | None]
"""The divergence of each row of a chunk `(C,)`; the gradient `(C, V)`, with respect to the logits, of its weighted part
of the loss; and, at temperature 1, where the hard loss's softmax is in that gradient, the log of its total `(C,)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """How hidden states become logits: softcap(scale * hidden @ weight.T + bias), the first `n_valid` of them."""

    scale: float = 1.0
    softcap: float | None = None
    n_valid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What is added up: `soft` x T^2 x divergence(label at T, student at T) + `hard` x cross-entropy (T = 1).

    The factor T^2 keeps the soft gradient's size independent of T (Hinton et al. 2015, arXiv 1503.02531).
    `divergence`, its `beta` and `least` are those of divergences.py. Only the forward KL may be given labels with drawn
    ids: the others would take a draw for the teacher's own probability.
    `ranked`: a label's ids are ranks, and its k-th entry is held against the student's own k-th choice. The total
    variation is then half of ULD (Boizard et al. 2024, arXiv 2402.12030), or less where labels lack the last ranks.
    """

    soft: float = 0.0
    hard: float = 1.0
    temperature: float = 1.0
    smoothing: float = 0.0
    divergence: Divergence = "forward_kl"
    beta: float = 0.5
    least: float = TINY
    ranked: bool = False


@runtime_checkable
class RowLabels(Protocol):
    """What a teacher says of N rows: stored (sparse.py), or from one in memory (dense.py)."""

    def to(self, device: torch.device) -> RowLabels:
        """The same labels on `device`."""

    def soft(self, part: slice, logits_CV: Tensor, mix: Mix) -> Soft:
        """The soft loss of the rows of `part`, whose student gives `logits_CV`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """Sums over rows, in nats: `total` carries the gradient; `soft` (without T^2) and `hard` are for the log.

    `hard` is the cross-entropy also where its weight is 0, as long as the soft loss is taken at temperature 1."""

    total: Float[Tensor, ""]
    soft: float
    hard: float
    count: int

    def towards(self, other: LossSums, share: Float[Tensor, ""]) -> LossSums:
        """These sums, `share` of them replaced by the `other`'s of the same rows; gradients reach `share` too."""
        way = float(share.detach())
        return LossSums(
            total=(1 - share) * self.total + share * other.total, soft=(1 - way) * self.soft + way * other.soft,
            hard=self.hard or other.hard, count=self.count,
        )  # fmt: skip


def row_loss(
    hidden_ND: Float[Tensor, "n d"],
    weight_VD: Float[Tensor, "v d"],
    target_N: Int[Tensor, " n"],
    *,
    mix: Mix,
    projection: Projection | None = None,
    bias_V: Float[Tensor, " v"] | None = None,
    labels: RowLabels | None = None,
    weight_N: Float[Tensor, " n"] | None = None,
    chunk: int = DEFAULT_CHUNK,
) -> LossSums:
    """Sum over N rows of the mixed loss, in nats; gradients of head weight and bias add up in fp32 at least.

    `weight_N` multiplies each row's share of `total`. `labels` may be left out only when `mix.soft` is 0.
    Differentiable once: a second backward pass through the same call raises torch's `RuntimeError`.
    Limits: `mix.soft = 0` is cross-entropy; `mix.hard = 0` is distillation alone.
    """
    if labels is None and mix.soft:
        raise ValueError(f"mix.soft is {mix.soft} but no labels were given; give labels or set soft to 0")
    projection = projection or Projection()
    # Inside `forward` torch reports gradients as wanted even where they are switched off.
    learning = torch.is_grad_enabled()
    total, soft, hard = _FusedRows.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, target_N, labels, weight_N, mix, projection, chunk, learning
    )
    return LossSums(total=total, soft=float(soft), hard=float(hard), count=target_N.shape[0])


class _FusedRows(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, hidden_ND, weight_VD, bias_V, target_N, labels, weight_N, mix, projection, chunk, learning
    ):
        wants_hidden, wants_weight, wants_bias = (learning and needed for needed in ctx.needs_input_grad[:3])
        accumulator = torch.promote_types(hidden_ND.dtype, torch.float32)
        grad_hidden = torch.empty_like(hidden_ND) if wants_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=accumulator) if wants_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=accumulator) if wants_bias and bias_V is not None else None
        valid = slice(0, projection.n_valid or weight_VD.shape[0])
        sums = torch.zeros(3, dtype=_sum_dtype(hidden_ND.device), device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            hidden_CD = hidden_ND[part]
            logits_CV = logits_of(hidden_CD, weight_VD[valid], None if bias_V is None else bias_V[valid], projection)
            soft = labels.soft(part, logits_CV, mix) if labels is not None and mix.soft else None
            row_weight = None if weight_N is None else weight_N[part].to(logits_CV.dtype)
            grad_CV = _chunk(logits_CV, target_N[part], soft, row_weight, mix, sums)
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            if projection.softcap is not None:
                grad_CV *= 1 - (logits_CV / projection.softcap).square()
            if grad_bias is not None:
                grad_bias[valid] += grad_CV.sum(0)
            grad_CV = (grad_CV * projection.scale if projection.scale != 1 else grad_CV).to(hidden_ND.dtype)
            if grad_hidden is not None:
                torch.mm(grad_CV, weight_VD[valid].to(grad_CV.dtype), out=grad_hidden[part])
            if grad_weight is not None:
                _add_outer(grad_weight[valid], grad_CV, hidden_CD)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = weight_VD.dtype, None if bias_V is None else bias_V.dtype
        ctx.mark_non_differentiable(soft := sums[1], hard := sums[2])
        return sums[0].to(accumulator), soft, hard

    @staticmethod
    def backward(ctx, upstream, _soft, _hard):  # type: ignore[no-untyped-def]
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else grad_hidden * upstream.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight.mul_(upstream).to(weight_dtype),
            None if grad_bias is None else (grad_bias * upstream).to(bias_dtype),
            *(None,) * 7,
        )


def _sum_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no fp64.


def _add_outer(sum_VD: Tensor, grad_CV: Tensor, hidden_CD: Tensor) -> None:
    if grad_CV.dtype == sum_VD.dtype:
        sum_VD.addmm_(grad_CV.T, hidden_CD)
    else:
        sum_VD += grad_CV.T @ hidden_CD


def logits_of(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, projection: Projection) -> Tensor:
    """Logits of one chunk, in fp32 at least from the product of hidden states and weights on. Where that is taken in
    bf16 or fp16, of such models or under autocast, it is rounded once to 8 or 11 significant bits: a logit of 16 to 32
    is then off by up to 1/16 or 1/128."""
    logits_CV = hidden_CD @ weight_VD.T
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    if projection.scale != 1:
        logits_CV *= projection.scale
    if bias_V is not None:
        logits_CV += bias_V
    if projection.softcap is not None:
        logits_CV = projection.softcap * torch.tanh(logits_CV / projection.softcap)
    return logits_CV


def _chunk(
    logits_CV: Tensor,
    target_C: Tensor,
    soft: Soft | None,
    weight_C: Tensor | None,
    mix: Mix,
    sums: Tensor,
) -> Tensor:
    """Gradient of the chunk's weighted loss with respect to its logits; adds (total, soft, hard) to `sums`."""
    loss_C, grad_CV, log_total_C = torch.zeros_like(logits_CV[:, 0]), None, None
    if soft is not None:
        soft_C, grad_CV, log_total_C = soft
        sums[1] += soft_C.sum()
        loss_C = loss_C + mix.soft * mix.temperature**2 * soft_C
    if mix.hard or grad_CV is None or log_total_C is not None:
        hard_C, grad_CV = _cross_entropy(logits_CV, target_C, mix, grad_CV, log_total_C)
        sums[2] += hard_C.sum()
        loss_C = loss_C + mix.hard * hard_C
    if weight_C is not None:
        loss_C = loss_C * weight_C
        grad_CV *= weight_C[:, None]
    sums[0] += loss_C.sum()
    return grad_CV


def _cross_entropy(
    logits_CV: Tensor, target_C: Tensor, mix: Mix, grad_CV: Tensor | None, log_total_C: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Label-smoothed cross-entropy of each row, and `grad_CV` with its weighted gradient (softmax minus the smoothed
    one-hot) added. `log_total_C` is given where `grad_CV` has the softmax's share already."""
    shared = log_total_C is not None
    if log_total_C is None:
        log_total_C = logits_CV.logsumexp(-1)
    target_C1 = target_C[:, None]
    loss_C = log_total_C - (1 - mix.smoothing) * logits_CV.gather(1, target_C1)[:, 0]
    if mix.smoothing:
        loss_C = loss_C - mix.smoothing * logits_CV.mean(-1)
    if not mix.hard and grad_CV is not None:
        return loss_C, grad_CV
    if not shared or grad_CV is None:
        softmax_CV = (logits_CV - log_total_C[:, None]).exp_()
        grad_CV = softmax_CV.mul_(mix.hard) if grad_CV is None else grad_CV.add_(softmax_CV, alpha=mix.hard)
    if mix.smoothing:
        grad_CV -= mix.hard * mix.smoothing / logits_CV.shape[1]
    grad_CV.scatter_add_(1, target_C1, torch.full_like(loss_C, mix.hard * (mix.smoothing - 1))[:, None])
    return loss_C, grad_CV
