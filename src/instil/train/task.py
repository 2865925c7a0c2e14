"""What the loop trains: a model as a module from a micro-batch to `LossSums`, over a list of examples.

Shape letters: N rows, D width, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from instil.data.batches import Curriculum, epoch_batches
from instil.data.mixing import Mixture
from instil.data.tokens import Encoded
from instil.models.family import Batch, Family, Rows
from instil.models.head import Head
from instil.models.layers import only_layers
from instil.objectives.config import Weighing
from instil.objectives.fused import LossSums, Mix, Projection, RowLabels, row_loss
from instil.objectives.sparse import SparseLabels
from instil.objectives.temperature import LearnedTemperature

LabelReader = Callable[[Sequence[Encoded]], tuple[Tensor, Tensor]]
"""Gives head ids and probabilities `(N, K)` of the rows of these examples, in batch order then time order."""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """A collated micro-batch with the labels of its rows at each temperature that may be asked for, if any."""

    batch: Batch
    labels: Mapping[float, RowLabels]
    tokens: int
    kept: tuple[int, ...] | None = None
    """The decoder layers that this batch passes; None for all."""
    examples: Sequence[Encoded] = ()
    own: bool = False
    """Whether the student wrote the targets, so that no row is to be learned as it stands."""
    weight_N: Tensor | None = None
    """How much each row counts by its task; None for all alike."""

    @property
    def rows(self) -> int:
        """Number of target rows."""
        return self.batch.target_N.shape[0]

    def to(self, device: torch.device) -> TextBatch:
        """The same on `device`."""
        labels = {temperature: each.to(device) for temperature, each in self.labels.items()}
        weight_N = None if self.weight_N is None else self.weight_N.to(device)
        return replace(self, batch=self.batch.to(device), labels=labels, weight_N=weight_N)


class RowLoss(nn.Module):
    """A model and what its rows are scored by: a mix, or one for each `progress`, the share of the budget that is
    spent. `weigh` says how much a labelled row counts. A `learned` temperature takes the place of the mix's, at the
    price of two passes of the head. `forward` returns sums over rows; the loop divides by their number, whatever they
    weigh: Adam's steps do not depend on a common factor."""

    def __init__(
        self, model: nn.Module, family: Family, mix: Mix | Callable[[float], Mix], weigh: Weighing = "even",
        learned: LearnedTemperature | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = model
        self.family = family
        self.progress = 0.0
        self.mix_at = mix
        self.weigh = weigh
        self.learned = learned

    @property
    def mix(self) -> Mix:
        """What counts now."""
        return self.mix_at if isinstance(self.mix_at, Mix) else self.mix_at(self.progress)

    def forward(self, batch: TextBatch) -> LossSums:
        """Loss sums of `batch`, in nats. Without labels, the soft part of the mix is left out."""
        with only_layers(self.model, batch.kept) if batch.kept else nullcontext():
            rows = self.family.rows(self.model, batch.batch)
        mix = self.mix
        if batch.own:
            return self._scored(rows, batch, replace(mix, soft=1.0, hard=0.0))
        if not batch.labels:
            return self._scored(rows, batch, Mix(hard=1.0, smoothing=mix.smoothing))
        if self.learned is None:
            return self._scored(rows, batch, mix)
        *ends, share = self.learned.place()
        before, behind = (self._scored(rows, batch, replace(mix, temperature=each)) for each in ends)
        return before.towards(behind, share)

    def _scored(self, rows: Rows, batch: TextBatch, mix: Mix) -> LossSums:
        labels = batch.labels.get(mix.temperature)
        return row_loss(
            rows.hidden_ND, rows.head.weight_VD, rows.target_N, mix=mix, projection=projection_of(rows.head),
            bias_V=rows.head.bias_V, labels=labels,
            weight_N=_product(batch.weight_N, _weights(labels, self.weigh)),
        )  # fmt: skip


def _weights(labels: RowLabels | None, weigh: Weighing) -> Tensor | None:
    """How much each row counts, in [0, 1], shape `(N,)`; None for all alike, as rows without stored labels are."""
    if weigh == "even" or not isinstance(labels, SparseLabels):
        return None
    first_N = labels.probs_NK.amax(-1)
    return first_N if weigh == "sure" else 1 - first_N


def _product(first_N: Tensor | None, second_N: Tensor | None) -> Tensor | None:
    if first_N is None or second_N is None:
        return second_N if first_N is None else first_N
    return first_N * second_N


def projection_of(head: Head) -> Projection:
    """The scalar part of `head`, as objectives take it."""
    return Projection(scale=head.scale, softcap=head.softcap, n_valid=head.n_valid)


@dataclass(frozen=True, slots=True)
class LayerDrop:
    """A share of the micro-batches passes only the decoder layers `kept` (LayerDrop, Fan et al. 2019, arXiv 1909.11556,
    with one fixed choice of layers), so that a student of these layers starts close to the whole model.

    Which batches they are follows from `seed` and the batch alone, so a resumed run takes the same.
    """

    kept: tuple[int, ...]
    share: float
    seed: int

    def of(self, indices: Sequence[int]) -> tuple[int, ...] | None:
        """The layers that the batch of these examples passes; None for all."""
        return self.kept if random.Random(f"{self.seed}/{list(indices)}").random() < self.share else None


@dataclass(slots=True)
class TextTask:
    """Examples for `module`, with the labels that `labels` reads, one reader for each temperature; `held_out` examples
    are scored by cross-entropy. Where examples are of several tasks, `mixture` says how often each has its turn, and
    `weights` how much the rows of a task count."""

    module: RowLoss
    examples: Sequence[Encoded]
    held_out: Sequence[Encoded] = ()
    labels: Mapping[float, LabelReader] = field(default_factory=dict)
    batch_tokens: int = 2048
    drop: LayerDrop | None = None
    mixture: Mixture | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    curriculum: Curriculum | None = None

    @property
    def alike(self) -> bool:
        """Whether every batch passes all layers, and all that needs the weights is in the module's `forward`."""
        return self.drop is None and self.module.learned is None and type(self.module) is RowLoss

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each example, prompt and target."""
        return [example.length for example in self.examples]

    def batch(self, indices: Sequence[int]) -> TextBatch:
        """The micro-batch of these examples, labelled."""
        chosen = [self.examples[index] for index in indices]
        kept = self.drop.of(indices) if self.drop else None
        found = {temperature: read(chosen) for temperature, read in self.labels.items()}
        labels = {at: SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK) for at, (ids_NK, probs_NK) in found.items()}
        return self._collate(chosen, labels, kept)

    def at(self, progress: float) -> None:
        """Moves the module's schedules on."""
        self.module.progress = progress

    def renew(self, batches: list[TextBatch], step: int) -> list[TextBatch]:
        """The same: nothing in them depends on the weights."""
        return batches

    def validation(self) -> Iterator[TextBatch]:
        """Unlabelled micro-batches of the held-out examples."""
        lengths = [example.length for example in self.held_out]
        tokens = max([self.batch_tokens, *lengths])
        for indices in epoch_batches(lengths, tokens=tokens, seed=0, epoch=0):
            yield self._collate([self.held_out[index] for index in indices], {})

    def _collate(
        self, examples: Sequence[Encoded], labels: Mapping[float, RowLabels], kept: tuple[int, ...] | None = None
    ) -> TextBatch:
        batch = self.module.family.collate(examples)
        weights = [self.weights.get(example.task, 1.0) for example in examples for _ in example.target_ids]
        weight_N = None if set(weights) <= {1.0} else torch.tensor(weights)
        tokens = sum(example.length for example in examples)
        return TextBatch(batch, labels, tokens, kept, examples=examples, weight_N=weight_N)
