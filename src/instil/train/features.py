"""Feature-based distillation: the student's hidden states at its rows are drawn to those of a teacher in memory.

Decoder layers only: rows are positions of the decoder, and what an encoder gives reaches them through cross-attention.

Shape letters: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from instil.core.errors import ConfigError
from instil.models.family import Batch, Family
from instil.models.layers import stack_of
from instil.models.probe import evaluating
from instil.objectives.config import FeatureLoss
from instil.objectives.features import feature_loss
from instil.objectives.fused import LossSums
from instil.objectives.schedules import Schedule
from instil.train.task import RowLoss, TextBatch

Pair = tuple[int, int]
"""A layer of the student, and the layer of the teacher whose output it is to give."""


def pairs_of(student_layers: int, teacher_layers: int, kept: Sequence[int] | None = None) -> tuple[Pair, ...]:
    """Each layer of the student with one of the teacher.

    Of a student with the layers `kept` of its teacher, each is to give what the next one that was kept has learned to
    read. Of any other, layers stand at the same share of the depth, the last with the last.
    """
    if kept is not None:
        return tuple(enumerate(end - 1 for end in (*kept[1:], teacher_layers)))
    share = teacher_layers / student_layers
    return tuple((number, max(0, round((number + 1) * share) - 1)) for number in range(student_layers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What is matched: `pairs` of layers by `kind`, the mean over pairs times `weight`, against a live `teacher`."""

    teacher: nn.Module
    family: Family
    pairs: tuple[Pair, ...]
    kind: FeatureLoss
    weight: Schedule


class FeatureRowLoss(RowLoss):
    """A `RowLoss` with features added to its total. Where the widths differ, a linear map for each pair, learned with
    the student and left behind with the training, brings the student's states to the teacher's width."""

    def __init__(self, plain: RowLoss, features: Features) -> None:
        super().__init__(plain.model, plain.family, plain.mix_at, plain.weigh)
        _require_layers(features.pairs, plain.model, features.teacher)
        # In a tuple, so that the teacher's weights are none of this module's.
        self._features = (features,)
        own, theirs = _width(plain.model), _width(features.teacher)
        self.maps = nn.ModuleList(nn.Linear(own, theirs, bias=False) for _ in features.pairs if own != theirs)

    def forward(self, batch: TextBatch) -> LossSums:
        """Loss sums of `batch`; while training, `total` includes the features."""
        if not self.training:
            return super().forward(batch)
        features = self._features[0]
        with _outputs(self.model, [own for own, _ in features.pairs]) as own:
            sums = super().forward(batch)
        with evaluating(features.teacher), _outputs(features.teacher, [theirs for _, theirs in features.pairs]) as seen:
            features.family.rows(features.teacher, batch.batch)
        total: Tensor = torch.zeros((), device=sums.total.device)
        for number, (mine, theirs) in enumerate(features.pairs):
            student_ND, teacher_ND = _rows(own[mine], batch.batch), _rows(seen[theirs], batch.batch)
            mapped_ND = self.maps[number](student_ND.float()) if len(self.maps) else student_ND
            total = total + feature_loss(features.kind, mapped_ND, teacher_ND)
        weight = features.weight.at(self.progress) / len(features.pairs)
        return replace(sums, total=sums.total + weight * total)


def _width(model: nn.Module) -> int:
    embedding: Any = model.get_output_embeddings()  # type: ignore[operator]
    return int(embedding.weight.shape[1])


def _require_layers(pairs: Sequence[Pair], student: nn.Module, teacher: nn.Module) -> None:
    counts = [len(stack_of(model).layers) for model in (student, teacher)]
    for pair in pairs:
        for role, number, count in zip(("student", "teacher"), pair, counts, strict=True):
            if not 0 <= number < count:
                raise ConfigError(f"features.layers names layer {number} of the {role}, which has 0 to {count - 1}")


@contextmanager
def _outputs(model: nn.Module, numbers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Inside, what the decoder layers `numbers` of `model` give is kept, `(B, T, D)` each."""
    kept: dict[int, Tensor] = {}
    layers = stack_of(model).layers

    def keep(number: int) -> Any:
        def hook(_layer: nn.Module, _args: Any, output: Any) -> None:
            kept[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [layers[number].register_forward_hook(keep(number)) for number in sorted(set(numbers))]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _rows(hidden_BTD: Tensor, batch: Batch) -> Tensor:
    return hidden_BTD.flatten(0, 1).index_select(0, batch.row_index_N)
