"""Passing examples through a model while hooks watch it: one at a time, so that no padding counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from torch import nn
from torch.utils.hooks import RemovableHandle

from instil.data.tokens import Encoded
from instil.models.family import Batch, Family
from instil.models.probe import evaluating


class FarEnough(Exception):
    """Raised by a hook to end an example's pass."""


def watch(
    model: nn.Module, family: Family, examples: Sequence[Encoded], handles: Iterable[RemovableHandle]
) -> list[Batch]:
    """Each of `examples` as the batch that passed; the hooks of `handles` are removed at the end."""
    device = next(model.parameters()).device
    batches = [family.collate([example]) for example in examples]
    try:
        with evaluating(model):
            for batch in batches:
                with suppress(FarEnough):
                    family.rows(model, batch.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return batches
