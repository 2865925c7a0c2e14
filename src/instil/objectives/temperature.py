"""A temperature that is learned with the student, between those at which labels were recorded.

Labels are recorded at given temperatures, so no loss is known in between. What is learned is therefore the share of
the two recorded temperatures on either side: the loss is that share of the one's and the rest of the other's. Both are
true divergences, and at each recorded temperature the loss is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SPEED = 50.0
"""The sigmoid's argument moves so many times as fast as other weights, whose learning rate is made for many more."""
_QUIET = 1e-3
"""Its gradient is made small, so that it takes no part in the norm that gradients are clipped by. Adam's steps do not
depend on that."""


class LearnedTemperature(nn.Module):
    """One temperature for all rows, learned *against* the student: it goes where the student's loss is high, while the
    student lowers it there (CTKD, Li et al. 2022, arXiv 2211.16231: a reversed gradient). Learned with the student it
    would merely go where both distributions are flat and the loss is low.

    `recorded`: temperatures in order, at least two; the first and the last are the bounds. It begins in the middle.
    """

    def __init__(self, recorded: Sequence[float]) -> None:
        super().__init__()
        self.recorded = tuple(recorded)
        self.way = nn.Parameter(torch.zeros(1))

    def place(self) -> tuple[float, float, Tensor]:
        """The recorded temperatures before and behind it, and the share of the second, shape `()`; its gradient is
        reversed."""
        along = torch.sigmoid(_SPEED * _Against.apply(self.way)[0]) * (len(self.recorded) - 1)  # type: ignore[no-untyped-call]
        number = min(math.floor(along.detach()), len(self.recorded) - 2)
        return self.recorded[number], self.recorded[number + 1], along - number

    @property
    def value(self) -> float:
        """The temperature itself."""
        before, behind, share = self.place()
        return before + float(share.detach()) * (behind - before)


class _Against(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return -_QUIET * gradient
