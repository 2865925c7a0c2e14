"""Sparse labels: some ids of each row with their probabilities, and one cell for all others.

A row's label is a *partition* of the vocabulary: K ids with a probability each, and one cell that holds all other ids
with the rest of the mass. The soft loss is a divergence (divergences.py) between the two distributions coarsened to
that partition: never negative, zero when they agree, a lower bound of the dense one (data processing inequality; Cover
and Thomas 2006, section 2.9), and equal to it when the head covers every id. Labels with ids drawn from the tail hold
all the mass and leave none to the tail's cell; the forward KL to those has, but for the rounding of probabilities, the
dense one's gradient on average over the draws. Where the head covers every id there is no tail, and what rounding left
of the label's mass is shared out in proportion. A student's tail below 1e-30 counts as 1e-30.

Shape letters: N rows, V vocabulary, K head entries of a label, C rows of one chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from instil.objectives.divergences import TINY, divergence
from instil.objectives.fused import Mix, Soft


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseLabels:
    """Labels of N rows: `ids_NK`, distinct in a row, with `probs_NK`. The tail has the rest of the mass.

    Unused entries have id -1. Ids that the student's head lacks (from `n_valid` up) fall into the tail.
    """

    ids_NK: Int[Tensor, "n k"]
    probs_NK: Float[Tensor, "n k"]

    def to(self, device: torch.device) -> SparseLabels:
        """The same labels on `device`."""
        return SparseLabels(ids_NK=self.ids_NK.to(device), probs_NK=self.probs_NK.to(device))

    def soft(self, part: slice, logits_CV: Tensor, mix: Mix) -> Soft:
        """The divergence over {head ids, tail} of the rows of `part`, as `RowLabels` says."""
        ids_CK = _at_ranks(logits_CV, self.ids_NK[part]) if mix.ranked else self.ids_NK[part]
        return _partition(logits_CV, ids_CK, self.probs_NK[part].to(logits_CV.dtype), mix)


def _partition(logits_CV: Tensor, ids_CK: Tensor, probs_CK: Tensor, mix: Mix) -> Soft:
    """The divergence over {head ids, tail}.

    The tail's mass is summed after the head's entries are taken out: 1 - sum(head) would cancel where it is small.
    """
    valid, temperature = logits_CV.shape[1], mix.temperature
    scaled_CV = logits_CV if temperature == 1 else logits_CV / temperature
    highest_C1 = scaled_CV.amax(-1, keepdim=True)
    # An entry without a column of its own points at a spare one, so that it changes no real one.
    mass_CV = scaled_CV.new_empty((len(scaled_CV), valid + 1))
    mass_CV[:, valid] = 0
    torch.sub(scaled_CV, highest_C1, out=mass_CV[:, :valid]).exp_()
    used_CK = (ids_CK >= 0) & (ids_CK < valid)
    ids_CK = torch.where(used_CK, ids_CK, valid).long()
    probs_CK, label_tail_C = _label_masses(probs_CK * used_CK, used_CK, valid)
    head_CK = mass_CV.gather(1, ids_CK)
    mass_CV.scatter_(1, ids_CK, 0.0)
    tail_C1 = mass_CV.sum(-1, keepdim=True)
    total_C1 = tail_C1 + head_CK.sum(-1, keepdim=True)
    # From the logits, because a mass may be too small for a logarithm where its logit is not.
    log_q_CK = scaled_CV.gather(1, ids_CK.clamp_max(valid - 1)) - highest_C1 - total_C1.log()
    log_q_CK = log_q_CK.masked_fill(~used_CK, math.log(TINY))
    log_q_tail_C1 = (tail_C1 / total_C1).clamp_min(TINY).log()
    loss_C, slope_CK = divergence(
        mix.divergence, mix.beta,
        torch.cat([probs_CK, label_tail_C[:, None]], -1), torch.cat([log_q_CK, log_q_tail_C1], -1), least=mix.least,
    )  # fmt: skip
    soft, hard = mix.soft * temperature, mix.hard if temperature == 1 else 0.0
    both_C1 = hard - soft * slope_CK.sum(-1, keepdim=True)
    mass_CV *= both_C1 / total_C1 + soft * slope_CK[:, -1:] / tail_C1.clamp_min(TINY)
    mass_CV.scatter_(1, ids_CK, head_CK / total_C1 * both_C1 + soft * slope_CK[:, :-1])
    log_total_C = (highest_C1 + total_C1.log())[:, 0] if temperature == 1 else None
    return loss_C.clamp_min(0), mass_CV[:, :valid], log_total_C


def _at_ranks(logits_CV: Tensor, ranks_CK: Tensor) -> Tensor:
    """The ids of these ranks; -1 for a rank that there is not."""
    first_CK = logits_CV.topk(min(ranks_CK.shape[1], logits_CV.shape[1]), dim=-1).indices
    known_CK = (ranks_CK >= 0) & (ranks_CK < first_CK.shape[1])
    return first_CK.gather(1, ranks_CK.where(known_CK, 0)).where(known_CK, -1)


def _label_masses(probs_CK: Tensor, used_CK: Tensor, valid: int) -> tuple[Tensor, Tensor]:
    """The label's head and tail masses. A head over all `valid` ids leaves no tail, whatever its rounding."""
    sum_C = probs_CK.sum(-1)
    tail_C = (1 - sum_C).clamp_min(0)
    if probs_CK.shape[1] < valid:
        return probs_CK, tail_C
    whole_C = used_CK.sum(-1) == valid
    scale_C = torch.where(whole_C, sum_C.clamp_min(TINY), 1)
    return probs_CK / scale_C[:, None], tail_C.masked_fill(whole_C, 0)
