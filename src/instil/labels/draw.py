"""From a teacher's logits to what is stored of a row: a head kept as it is, and ids drawn from the tail.

Shape letters: C rows of a chunk, V vocabulary, K head entries, M drawn ids.

One dial, the `threshold` c. Ids with a probability of c or more are the *head*. The rest, of mass t, is the *tail*,
and m = round(t / c) ids of it are drawn, each of which then stands for t / m. Every id of the tail is drawn with
probability p * m / t, so the estimate is unbiased (to half a unit of the codec: a smaller tail is dropped), and none
is drawn twice. A constant c over all rows is the best use
of the bytes for the squared error: a row's error is about c * t for t / c ids, so each further id takes as much error
away wherever it is spent; a sure teacher takes few bytes and an unsure one many. (Threshold sampling: Duffield,
Lund and Thorup 2005, "Learn more, sample less"; for distributions, Fearnhead and Clifford 2003.)

The m ids are drawn systematically: one start, then equal steps along the tail's cumulative mass in the order of the
ids. (Laying the ids out by likeness of their embeddings, so that draws spread over kinds of words, gained nothing that
could be measured; docs/lab-notes.md.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from instil.labels.codec import Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """What is stored of C rows. Unused entries have id -1.

    `head_CK`: ids, falling by probability. `masses_CK`: their probabilities in units of 1 / `codec.unit`.
    `drawn_CM`: ids drawn from the tail, each for an equal share of what the head's masses leave of the unit.
    """

    head_CK: Int[Tensor, "c k"]
    masses_CK: Int[Tensor, "c k"]
    drawn_CM: Int[Tensor, "c m"]


def pick(
    logits_CV: Float[Tensor, "c v"],
    codec: Codec,
    start_C: Float[Tensor, " c"],
    total_C: Float[Tensor, " c"] | None = None,
) -> Picks:
    """What `codec` stores of rows whose logits, at its temperature, are `logits_CV` (overwritten).

    `start_C`: a number in [0, 1) for each row, where its systematic draw begins. `total_C`: their log-sum-exp, where
    it is known already.
    """
    total_C = logits_CV.logsumexp(-1) if total_C is None else total_C
    probs_CV = logits_CV.sub_(total_C[:, None]).exp_()
    top = probs_CV.topk(min(codec.head, codec.vocabulary), dim=-1)
    kept_CK = top.values >= codec.threshold
    masses_CK = in_units(top.values * kept_CK, codec.unit)
    head_CK = top.indices.where(kept_CK, -1)
    drawn_CM = head_CK[:, :0]
    if codec.draws:
        # What is not kept of the top stays in the tail.
        probs_CV.scatter_(1, top.indices, top.values.masked_fill(kept_CK, 0))
        highest_C = top.values.masked_fill(kept_CK, 0).amax(-1)
        has_tail_C = codec.unit > masses_CK.sum(-1)
        drawn_CM = _draw(probs_CV, highest_C, has_tail_C, codec, start_C)
    return Picks(head_CK=head_CK, masses_CK=masses_CK, drawn_CM=drawn_CM)


def in_units(probs_CK: Tensor, unit: int) -> Tensor:
    """Probabilities as whole numbers of units: each rounded down, and those that lost most up, so that the sum is
    right to half a unit and at most `unit` (the largest-remainder method)."""
    # On the CPU, since not every accelerator has fp64.
    exact_CK = probs_CK.cpu().double() * unit
    masses_CK = exact_CK.floor()
    missing_C = exact_CK.sum(-1).round().clamp_max(unit) - masses_CK.sum(-1)
    rank_CK = (exact_CK - masses_CK).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    masses_CK += rank_CK < missing_C[:, None]
    return masses_CK.long().to(probs_CK.device)


def _draw(tail_CV: Tensor, highest_C: Tensor, has_tail_C: Tensor, codec: Codec, start_C: Tensor) -> Tensor:
    upto_CV = tail_CV.cumsum(-1)
    mass_C = upto_CV[:, -1]
    # A step shorter than an id's own mass would take that id twice. The head's cap may leave a high one in the tail.
    most_C = (mass_C / highest_C.clamp_min(1e-30)).floor()
    count_C = (mass_C / codec.threshold).round().minimum(most_C).clamp(1, codec.most_drawn)
    count_C = count_C * (has_tail_C & (mass_C > 0))
    width = int(count_C.max()) if len(count_C) else 0
    number_M = torch.arange(width, device=tail_CV.device)
    points_CM = (number_M + start_C[:, None].to(mass_C)) * (mass_C / count_C.clamp_min(1))[:, None]
    ids_CM = torch.searchsorted(upto_CV, points_CM.contiguous(), right=True).clamp_max(tail_CV.shape[1] - 1)
    used_CM = number_M < count_C[:, None]
    # Rounding of the running sum may still land two points on one id, or on one without mass: those are left out.
    used_CM[:, 1:] &= ids_CM[:, 1:] != ids_CM[:, :-1]
    used_CM &= tail_CV.gather(1, ids_CM) > 0
    return ids_CM.where(used_CM, -1)
