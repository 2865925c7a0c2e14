"""Feature-based distillation: what the student computes on the way is drawn to what a teacher in memory does.

Shape letters: N rows or positions, D width, B batch, T time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from instil.core.errors import ConfigError
from instil.models.attention import attention_of, projection, shared_heads, show_attention
from instil.models.family import Batch, Family
from instil.models.layers import Side, stack_of
from instil.models.positions import Positions, source_positions, target_positions
from instil.models.probe import evaluating
from instil.models.watching import Spot, watched
from instil.objectives.config import Feature, FeatureLoss, FeaturePlace
from instil.objectives.features import attention_loss, feature_loss, relation_loss, relations
from instil.objectives.fused import LossSums
from instil.objectives.schedules import Schedule
from instil.train.task import RowLoss, TextBatch

Pair = tuple[int, int]
"""A layer of the student, and the layer of the teacher that it is to be like."""


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
    """What is matched: `match` at the `pairs` of layers of `place`, the mean over pairs times `weight`.

    `kind`: how states and embeddings are held against each other. `heads`: the number of groups that values, queries
    and keys are cut into for their relations; by default as many as both models' heads can be put together to.
    """

    match: Feature = "states"
    place: FeaturePlace = "decoder"
    pairs: tuple[Pair, ...]
    kind: FeatureLoss = "mse"
    weight: Schedule
    heads: int | None = None

    @property
    def side(self) -> Side:
        """Whose layers have it."""
        return "encoder" if self.place == "encoder" else "decoder"

    def spot(self, model: nn.Module, number: int) -> Spot:
        """Where it is seen in layer `number` of `model`."""
        layers = stack_of(model, self.side).layers
        if self.match == "states" or self.match == "embeddings":
            return Spot(module=layers[number], before=self.match == "embeddings")
        attention = attention_of(model, layers[number], cross=self.place == "cross")
        if self.match == "attention":
            return Spot(module=attention, part=-1)
        return projection(attention, self.match)

    def positions(self, batch: Batch) -> Positions:
        """Where in `batch` it is compared: what the decoder looks up in an encoder is made of the encoder's."""
        looked_up = self.place == "cross" and self.match in ("values", "keys")
        return source_positions(batch) if looked_up or self.place == "encoder" else target_positions(batch)


class FeatureRowLoss(RowLoss):
    """A `RowLoss` with `features` of a live `teacher` added to its total. Where the widths of states differ, a linear
    map for each pair, learned with the student and left behind with the training, brings the student's to the
    teacher's. Attention weights are seen in eager attention alone, so both models are switched to it for them."""

    def __init__(self, plain: RowLoss, teacher: nn.Module, family: Family, features: Sequence[Features]) -> None:
        super().__init__(plain.model, plain.family, plain.mix_at, plain.weigh, plain.learned)
        # In a tuple, so that the teacher's weights are none of this module's.
        self._teacher = (teacher, family)
        self.features = tuple(features)
        for feature in self.features:
            _require_layers(feature, plain.model, teacher)
        if any(feature.match == "attention" for feature in self.features):
            for model in (plain.model, teacher):
                show_attention(model)
        self._spots = [
            {
                (feature, pair): each.spot(model, numbers[role])
                for feature, each in enumerate(self.features)
                for pair, numbers in enumerate(each.pairs)
            }
            for role, model in enumerate((plain.model, teacher))
        ]
        own, theirs = _width(plain.model), _width(teacher)
        mapped = [len(f.pairs) if own != theirs and f.match in ("states", "embeddings") else 0 for f in self.features]
        self.maps = nn.ModuleList(
            nn.ModuleList(nn.Linear(own, theirs, bias=False) for _ in range(count)) for count in mapped
        )

    def forward(self, batch: TextBatch) -> LossSums:
        """Loss sums of `batch`; while training, `total` includes the features."""
        if not self.training:
            return super().forward(batch)
        teacher, family = self._teacher
        with watched(self._spots[0]) as own:
            sums = super().forward(batch)
        with evaluating(teacher), watched(self._spots[1]) as seen:
            family.rows(teacher, batch.batch)
        total = sums.total
        for number, feature in enumerate(self.features):
            at = feature.positions(batch.batch)
            places = [(number, pair) for pair in range(len(feature.pairs))]
            losses = [self._loss(place, own[place], seen[place], at) for place in places]
            total = total + feature.weight.at(self.progress) * torch.stack(losses).mean()
        return replace(sums, total=total)

    def _loss(self, place: tuple[int, int], own: Tensor, theirs: Tensor, at: Positions) -> Tensor:
        """The sum over positions of what `own` misses of `theirs`."""
        number, pair = place
        feature = self.features[number]
        if feature.match == "states" or feature.match == "embeddings":
            student_ND, teacher_ND = _at(own, at), _at(theirs, at)
            if maps := self.maps[number]:
                student_ND = maps[pair](student_ND.float())  # type: ignore[index]
            return feature_loss(feature.kind, student_ND, teacher_ND, at.weight_P)
        if feature.match == "attention":
            return attention_loss(_at(own.transpose(1, 2), at), _at(theirs.transpose(1, 2), at), at.weight_P)
        heads = feature.heads or shared_heads(self.model, self._teacher[0], feature.match)
        _require_divisor(heads, feature.match, own, theirs)
        return relation_loss(
            relations(own, at.index_P, heads), relations(theirs, at.index_P, heads), at.visible_PT, at.weight_P
        )


def _width(model: nn.Module) -> int:
    embedding: Any = model.get_output_embeddings()  # type: ignore[operator]
    return int(embedding.weight.shape[1])


def _require_layers(feature: Features, student: nn.Module, teacher: nn.Module) -> None:
    counts = [len(stack_of(model, feature.side).layers) for model in (student, teacher)]
    for pair in feature.pairs:
        for role, number, count in zip(("student", "teacher"), pair, counts, strict=True):
            if not 0 <= number < count:
                raise ConfigError(f"features.layers names layer {number} of the {role}, which has 0 to {count - 1}")


def _require_divisor(heads: int, match: Feature, *states_BTF: Tensor) -> None:
    for channels in (states.shape[-1] for states in states_BTF):
        if channels % heads:
            raise ConfigError(
                f"features.heads is {heads}, which does not divide the {channels} channels of the {match}; leave it"
                " out, or give a divisor"
            )


def _at(states: Tensor, at: Positions) -> Tensor:
    """What stands at the positions, of states whose first two axes are `(B, T)`."""
    return states.flatten(0, 1).index_select(0, at.index_P)
