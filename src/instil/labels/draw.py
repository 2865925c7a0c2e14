"""From a teacher's logits to what is stored of a row: a head kept as it is, and ids drawn from the tail.

Shape letters: C rows of a chunk, V vocabulary, K head entries, M drawn ids.

One dial, the `threshold` c. Ids with a probability of c or more are the *head*. The rest, of mass t, is the *tail*,
and m = round(t / c) ids of it are drawn, each of which then stands for t / m. Every id of the tail is drawn with
probability p * m / t, so the estimate is unbiased, and none is drawn twice. A constant c over all rows is the best use
of the bytes for the squared error: a row's error is about c * t for t / c ids, so each further id takes as much error
away wherever it is spent; a sure teacher takes few bytes and an unsure one many. (Threshold sampling: Duffield,
Lund and Thorup 2005, "Learn more, sample less"; for distributions, Fearnhead and Clifford 2003.)

The m ids are drawn systematically: one start, then equal steps along the tail's cumulative mass. The ids are laid
out so that neighbours have similar output embeddings; so the draws spread over the kinds of words there are, as if one
were taken from each of m clusters of equal mass (stratified sampling), without a clustering that is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from instil.labels.codec import Codec

_SAMPLE = 4096
_POWER_STEPS = 6
_LEAF = 16


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
    logits_CV: Float[Tensor, "c v"], codec: Codec, order_V: Int[Tensor, " v"] | None, start_C: Float[Tensor, " c"]
) -> Picks:
    """What `codec` stores of rows whose logits, at its temperature, are `logits_CV` (overwritten).

    `order_V`: the ids, neighbours alike; None leaves them as they are. `start_C`: a number in [0, 1) for each row,
    where its systematic draw begins.
    """
    probs_CV = logits_CV.sub_(logits_CV.logsumexp(-1, keepdim=True)).exp_()
    top = probs_CV.topk(min(codec.head, codec.vocabulary), dim=-1)
    kept_CK = top.values >= codec.threshold
    masses_CK = _in_units(top.values * kept_CK, codec.unit)
    head_CK = top.indices.where(kept_CK, -1)
    drawn_CM = head_CK[:, :0]
    if codec.draws:
        # What is not kept of the top stays in the tail.
        probs_CV.scatter_(1, top.indices, top.values.masked_fill(kept_CK, 0))
        highest_C = top.values.masked_fill(kept_CK, 0).amax(-1)
        has_tail_C = codec.unit > masses_CK.sum(-1)
        drawn_CM = _draw(probs_CV, highest_C, has_tail_C, codec, order_V, start_C)
    return Picks(head_CK=head_CK, masses_CK=masses_CK, drawn_CM=drawn_CM)


def _in_units(probs_CK: Tensor, unit: int) -> Tensor:
    """Probabilities as whole numbers whose sum is at most `unit`; what rounding added too much goes from the first."""
    masses_CK = (probs_CK.double() * unit).round().long()
    masses_CK[:, 0] -= (masses_CK.sum(-1) - unit).clamp_min(0)
    return masses_CK


def _draw(
    tail_CV: Tensor, highest_C: Tensor, has_tail_C: Tensor, codec: Codec, order_V: Tensor | None, start_C: Tensor
) -> Tensor:
    laid_CV = tail_CV if order_V is None else tail_CV.index_select(1, order_V)
    upto_CV = laid_CV.cumsum(-1)
    mass_C = upto_CV[:, -1]
    # A step shorter than an id's own mass would take that id twice. The head's cap may leave a high one in the tail.
    most_C = (mass_C / highest_C.clamp_min(1e-30)).floor()
    count_C = (mass_C / codec.threshold).round().minimum(most_C).clamp(1, codec.most_drawn)
    count_C = count_C * (has_tail_C & (mass_C > 0))
    width = int(count_C.max()) if len(count_C) else 0
    number_M = torch.arange(width, device=tail_CV.device)
    points_CM = (number_M + start_C[:, None].to(mass_C)) * (mass_C / count_C.clamp_min(1))[:, None]
    place_CM = torch.searchsorted(upto_CV, points_CM.contiguous(), right=True).clamp_max(tail_CV.shape[1] - 1)
    ids_CM = place_CM if order_V is None else order_V[place_CM]
    used_CM = number_M < count_C[:, None]
    # Rounding of the running sum may still land two points on one id, or on one without mass: those are left out.
    used_CM[:, 1:] &= place_CM[:, 1:] != place_CM[:, :-1]
    used_CM &= laid_CV.gather(1, place_CM) > 0
    return ids_CM.where(used_CM, -1)


def order_by_likeness(weight_VD: Float[Tensor, "v d"], *, seed: int = 0) -> Int[Tensor, " v"]:
    """The ids 0 to V - 1, laid out so that neighbours have similar rows of `weight_VD`: halves along the direction of
    most variance, then halves of those, down to groups of 16. Deterministic on one machine; labels do not depend on
    it for being right, only for being precise.
    """
    generator = torch.Generator().manual_seed(seed)
    weight_VD = weight_VD.detach().float().cpu()
    groups = [torch.arange(len(weight_VD))]
    while len(groups[0]) > _LEAF:
        groups = [half for group in groups for half in _halves(weight_VD, group, generator)]
    return torch.cat(groups)


def _halves(weight_VD: Tensor, group: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`group` cut at the median along its direction of most variance, found by power iteration on a sample."""
    sample = group[torch.randperm(len(group), generator=generator)[:_SAMPLE]]
    centred_SD = weight_VD[sample] - weight_VD[sample].mean(0)
    direction_D = torch.randn(weight_VD.shape[1], generator=generator)
    for _ in range(_POWER_STEPS):
        direction_D = centred_SD.T @ (centred_SD @ direction_D)
        direction_D = direction_D / direction_D.norm().clamp_min(1e-12)
    ranked = group[(weight_VD[group] @ direction_D).argsort(stable=True)]
    middle = len(ranked) // 2
    return ranked[:middle], ranked[middle:]
