"""Structured pruning: whole feed-forward units go, and what is left is a smaller plain model, faster on any engine."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from instil.data.tokens import Encoded
from instil.models.family import family_of
from instil.models.head import unwrap
from instil.models.students.anatomy import anatomy_of
from instil.models.students.plan import Widths
from instil.models.students.sizes import sizes_of
from instil.models.students.width import WidthReport, cut_width

EXAMPLES = 64
"""Training examples on which units are weighed, and over which the others take over from those that go."""
_STEP = 8
"""Units stay in multiples of it, which matrix kernels like."""


def fewer_units(model: nn.Module, sparsity: float, examples: Sequence[Encoded]) -> tuple[nn.Module, WidthReport]:
    """A new model without about the share `sparsity` of the feed-forward units of each layer: those go that do least on
    the `examples` (models/students/width.py). Raises `ModelError` for an architecture that is not in its table."""
    inner = unwrap(model)
    units = sizes_of(inner.config, anatomy_of(inner)).feed_forward
    left = max(1, round(units * (1 - sparsity) / _STEP)) * _STEP if units > _STEP else units
    return cut_width(inner, Widths(feed_forward=min(left, units)), family_of(inner), examples[:EXAMPLES])
