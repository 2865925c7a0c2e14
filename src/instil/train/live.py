"""Live labels: a teacher in memory scores rows as the student learns, those of the data or of the student's own texts.

On-policy distillation (GKD, Agarwal et al. 2023, arXiv 2306.13649): the student writes texts itself for a share of the
micro-batches, and learns what the teacher would have done at each of their positions, so that it is taught where it
goes by itself. Texts are drawn from the weights of the step that learns from them; no gradient passes the drawing.

Several teachers score a row by the mixture of their distributions (`Mixture`). A student may also be its own teacher,
by the average of its past weights (`Average`).

Shape letters: N rows, E examples, S teachers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from instil.core.fingerprint import fingerprint
from instil.data.tokens import Encoded
from instil.labels.mixed import trusted
from instil.labels.scores import mean_log_probs
from instil.labels.teacher import Teacher
from instil.models.family import Family, Rows
from instil.objectives.dense import DenseLabels, MixedDenseLabels
from instil.objectives.fused import RowLabels
from instil.objectives.schedules import Schedule
from instil.train.task import TextBatch, TextTask, projection_of

Scorer = Callable[[Sequence[Encoded]], RowLabels]
"""Gives labels of the rows of these examples, in batch order then time order."""


def dense_labels(rows: Rows) -> DenseLabels:
    """What a teacher with these rows says of them."""
    head = rows.head
    return DenseLabels(
        hidden_NE=rows.hidden_ND, weight_VE=head.weight_VD, bias_V=head.bias_V, projection=projection_of(head)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Several `teachers` that score rows together, each with its share of `weights`, by task. `given`: the examples by
    id with the targets that they have in the data, on which the teachers' losses then move the weights as they do those
    of stored labels (labels/mixed.py), at the price of one more pass of each teacher."""

    teachers: Sequence[Teacher]
    weights: Mapping[str, Sequence[float]]
    given: Mapping[str, Encoded] | None = None

    def score(self, examples: Sequence[Encoded]) -> MixedDenseLabels:
        """What those teachers say of the rows of `examples` that have a share in any of them."""
        weight_ES = torch.tensor([self.weights[example.task] for example in examples])
        used = [number for number, share_E in enumerate(weight_ES.T) if bool(share_E.any())]
        teachers, weight_ES = [self.teachers[number] for number in used], weight_ES[:, used]
        if self.given is not None:
            targets = [self.given[example.id] for example in examples]
            likely_SE = torch.tensor([mean_log_probs(each, targets) for each in teachers])
            weight_ES = trusted(weight_ES, -likely_SE.T)
        length_E = torch.tensor([len(example.target_ids) for example in examples])
        return MixedDenseLabels(
            teachers=[dense_labels(each.rows(examples)) for each in teachers],
            weight_NS=weight_ES.repeat_interleave(length_E, 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicy:
    """For a `share` of the micro-batches, `draw(prompts, seed)` gives targets of up to `longest` tokens.

    Which they are, and what is drawn, follows from `seed`, the step and the examples alone, so a resumed run takes the
    same, and so do several processes.
    """

    share: Schedule
    draw: Callable[[Sequence[Sequence[int]], int], list[list[int]]]
    longest: int
    seed: int

    def wants(self, examples: Sequence[Encoded], step: int, progress: float) -> bool:
        """Whether the micro-batch of these, in the step after `step` others, is the student's to write."""
        return random.Random(self._seed(examples, step)).random() < self.share.at(progress)

    def _seed(self, examples: Sequence[Encoded], step: int) -> int:
        return int(fingerprint(self.seed, step, [example.id for example in examples]), 16) % (1 << 31)

    def written(self, examples: Sequence[Encoded], step: int) -> list[Encoded]:
        """`examples` with what the student writes for targets."""
        texts = self.draw([example.prompt_ids for example in examples], self._seed(examples, step))
        return [replace(example, target_ids=tuple(ids)) for example, ids in zip(examples, texts, strict=True)]


@dataclass(slots=True, kw_only=True)
class LiveTask(TextTask):
    """A `TextTask` whose rows `score` labels with the weights of the step: every row, or, with `own_alone`, those that
    the student wrote."""

    score: Scorer
    own: OnPolicy | None = None
    own_alone: bool = True

    @property
    def alike(self) -> bool:
        """Neither where the student writes texts between the steps, nor where a mean of its weights is kept."""
        own_mean = getattr(self.module, "average", None)
        return super(LiveTask, self).alike and self.own is None and own_mean is None

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each example, with room for what the student may write."""
        longest = self.own.longest if self.own else 0
        return [len(each.prompt_ids) + max(len(each.target_ids), longest) for each in self.examples]

    def renew(self, batches: list[TextBatch], step: int) -> list[TextBatch]:
        """The micro-batches, some of them with the student's own targets, labelled."""
        average = getattr(self.module, "average", None)
        if average is not None:
            average.follow(self.module.model, step)
        return [self._renewed(batch, step) for batch in batches]

    def _renewed(self, batch: TextBatch, step: int) -> TextBatch:
        if self.own and self.own.wants(batch.examples, step, self.module.progress):
            batch = replace(self._collate(self.own.written(batch.examples, step), {}, batch.kept), own=True)
        elif self.own_alone:
            return batch
        return replace(batch, labels={self.module.mix.temperature: self.score(batch.examples)})


class Average(nn.Module):
    """The exponential moving average of a student's weights, `ema` of it kept `every` so many steps, as the student's
    teacher (temporal ensembling of weights: Tarvainen and Valpola 2017, arXiv 1703.01780). `ema = 0` is the student as
    it was at the last of these steps.

    A part of the module that is trained, so checkpoints hold it; its weights want no gradient.
    """

    def __init__(self, model: nn.Module, family: Family, *, ema: float, every: int) -> None:
        super().__init__()
        self.family = family
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.ema = ema
        self.every = every

    def follow(self, model: nn.Module, step: int) -> None:
        """Takes over its share of `model`'s weights, which have come `step` steps far."""
        if step % self.every == 0:
            own, new = ([weight.detach() for weight in each.parameters()] for each in (self.model, model))
            torch._foreach_lerp_(own, new, 1 - self.ema)

    def score(self, examples: Sequence[Encoded]) -> DenseLabels:
        """What the average says of the rows of `examples`."""
        return dense_labels(Teacher(model=self.model, family=self.family).rows(examples))
