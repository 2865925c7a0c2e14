"""Dense labels: the teacher's whole distribution at each row, from its hidden states, made when a chunk is looked at.

They go through the same door as stored ones (fused.py): no [rows, vocabulary] tensor survives, on neither side.

Shape letters: N rows, E the teacher's width, V vocabulary, C rows of one chunk, S teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from instil.objectives.divergences import divergence
from instil.objectives.fused import Mix, Projection, Soft, logits_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLabels:
    """What a teacher in memory says of N rows: its `hidden_NE` and the head that turns them into logits.

    Its probabilities are its own, however small, so `Mix.least` is left aside. Where one of teacher and student has
    more ids than the other, the rest of them only pad its head: the teacher's mass is shared out over the ids that both
    have.
    """

    hidden_NE: Float[Tensor, "n e"]
    weight_VE: Float[Tensor, "v e"]
    bias_V: Float[Tensor, " v"] | None = None
    projection: Projection = field(default_factory=Projection)

    def to(self, device: torch.device) -> DenseLabels:
        """The same labels on `device`."""
        bias_V = None if self.bias_V is None else self.bias_V.to(device)
        return replace(self, hidden_NE=self.hidden_NE.to(device), weight_VE=self.weight_VE.to(device), bias_V=bias_V)

    def soft(self, part: slice, logits_CV: Tensor, mix: Mix) -> Soft:
        """The divergence over the whole vocabulary of the rows of `part`, as `RowLabels` says."""
        probs_CV = self.probabilities(part, logits_CV.shape[1], mix.temperature)
        return _whole(probs_CV.to(logits_CV.dtype), logits_CV, mix)

    def probabilities(self, part: slice, ids: int, temperature: float) -> Float[Tensor, "c ids"]:
        """The teacher's, of the rows of `part` at `temperature`."""
        both = slice(0, min(ids, self.projection.n_valid or len(self.weight_VE)))
        bias_V = None if self.bias_V is None else self.bias_V[both]
        theirs_CV = logits_of(self.hidden_NE[part], self.weight_VE[both], bias_V, self.projection)
        return nn.functional.pad(theirs_CV.div_(temperature).softmax(-1), (0, ids - theirs_CV.shape[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedDenseLabels:
    """What several teachers in memory say of the same N rows: the mixture of their distributions, each row's by its
    weights, which add up to 1. A chunk's mixture is added up teacher by teacher, so two of them are held at once."""

    teachers: Sequence[DenseLabels]
    weight_NS: Float[Tensor, "n s"]

    def to(self, device: torch.device) -> MixedDenseLabels:
        """The same labels on `device`."""
        teachers = tuple(each.to(device) for each in self.teachers)
        return MixedDenseLabels(teachers=teachers, weight_NS=self.weight_NS.to(device))

    def soft(self, part: slice, logits_CV: Tensor, mix: Mix) -> Soft:
        """The divergence from the mixture over the whole vocabulary of the rows of `part`, as `RowLabels` says."""
        probs_CV = torch.zeros_like(logits_CV)
        for number, teacher in enumerate(self.teachers):
            theirs_CV = teacher.probabilities(part, probs_CV.shape[1], mix.temperature)
            probs_CV.addcmul_(self.weight_NS[part, number, None].to(probs_CV), theirs_CV.to(probs_CV))
        return _whole(probs_CV, logits_CV, mix)


def _whole(probs_CV: Tensor, logits_CV: Tensor, mix: Mix) -> Soft:
    """The divergence over all ids between these probabilities of a teacher and the student that gives `logits_CV`."""
    temperature = mix.temperature
    log_q_CV = (logits_CV if temperature == 1 else logits_CV / temperature).log_softmax(-1)
    loss_C, slope_CV = divergence(mix.divergence, mix.beta, probs_CV, log_q_CV)
    soft, hard = mix.soft * temperature, mix.hard if temperature == 1 else 0.0
    both_C1 = hard - soft * slope_CV.sum(-1, keepdim=True)
    grad_CV = log_q_CV.exp_().mul_(both_C1).add_(slope_CV, alpha=soft)
    return loss_C.clamp_min(0), grad_CV, logits_CV.logsumexp(-1) if temperature == 1 else None
