"""How hard each example is, read from a teacher's labels: no pass of any model.

Shape letters: N rows, K entries of a label.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instil.data.tokens import Encoded
from instil.objectives.config import Difficulty
from instil.train.task import LabelReader

_TOGETHER = 64


def difficulties(read: LabelReader, examples: Sequence[Encoded], *, by: Difficulty, least: float) -> list[float]:
    """For each of `examples`, the mean over its rows, in nats, of the teacher's loss on the target or of its entropy.

    Labels hold a part of each distribution, so both are bounds from below. A target that no entry names has at most
    the probability of the least one that is named, and at most what the first one leaves. The entropy is that over the
    entries and one cell for all other ids. A probability counts as `least` at least.
    """
    found: list[float] = []
    for start in range(0, len(examples), _TOGETHER):
        some = examples[start : start + _TOGETHER]
        ids_NK, probs_NK = read(some)
        target_N = torch.tensor([token for example in some for token in example.target_ids])
        hard_N = _entropy(probs_NK) if by == "entropy" else _loss(ids_NK, probs_NK, target_N, least)
        found.extend(float(part.mean()) for part in hard_N.split([len(example.target_ids) for example in some]))
    return found


def easy_first(hard: Sequence[float]) -> tuple[int, ...]:
    """The examples by rising difficulty; of equals, the earlier one."""
    return tuple(sorted(range(len(hard)), key=hard.__getitem__))


def _loss(ids_NK: Tensor, probs_NK: Tensor, target_N: Tensor, least: float) -> Tensor:
    named_NK = ids_NK == target_N[:, None]
    listed_N = torch.where(ids_NK >= 0, probs_NK, 1.0).amin(-1)
    most_N = torch.minimum(listed_N, 1 - probs_NK.amax(-1))
    probability_N = torch.where(named_NK.any(-1), (probs_NK * named_NK).sum(-1), most_N)
    return -probability_N.clamp_min(least).log()


def _entropy(probs_NK: Tensor) -> Tensor:
    tail_N = (1 - probs_NK.sum(-1)).clamp_min(0)
    return -torch.xlogy(probs_NK, probs_NK).sum(-1) - torch.xlogy(tail_N, tail_N)
