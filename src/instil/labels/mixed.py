"""Labels of several teachers, read as those of one: the mixture of their distributions, each by its weight.

A mixture of unbiased estimates is one of the mixture, so drawn ids need no more than their share. Weights are those
of the example's task. `by_loss`, a teacher's weight w becomes proportional to w exp(-loss), where loss is its mean over
the example's target in nats a token, as its labels tell it: the teachers nearer to the truth are trusted more, as in
CA-MKD (Zhang et al. 2021, arXiv 2201.00007). Teachers of equal loss keep their weights.

Shape letters: N rows, K entries of the fullest row, E examples, S stores.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from instil.core.errors import LabelError
from instil.data.tokens import Encoded
from instil.labels.store import LabelStore, StoreManifest


class MixedLabels:
    """`stores` with their `weights` in each task, which add up to 1. Raises `LabelError` for teachers of other
    vocabularies, by their sizes; those of the stores `alike` are known to have the same tokens, however far their heads
    are padded."""

    def __init__(
        self, stores: Sequence[LabelStore], weights: Mapping[str, Sequence[float]], *, by_loss: bool = False,
        alike: Collection[LabelStore] = (),
    ) -> None:  # fmt: skip
        sizes = {str(store.folder): store.manifest.codec.vocabulary for store in stores if store not in alike}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{folder} has {size:,} ids" for folder, size in sizes.items())
            raise LabelError(f"labels of other vocabularies cannot be mixed ({told}); leave one out")
        self._stores = tuple(stores)
        self._weights = dict(weights)
        self._by_loss = by_loss
        self._least = max(0.5 / store.manifest.codec.unit for store in stores)

    @property
    def manifest(self) -> StoreManifest:
        """The first store's."""
        return self._stores[0].manifest

    def __contains__(self, record: str) -> bool:
        return all(record in store for store in self._stores)

    def read(
        self, examples: Sequence[Encoded], temperature: float | None = None
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Like `LabelStore.read`, of the mixture."""
        found = [store.read(examples, temperature) for store in self._stores]
        length_E = torch.tensor([len(example.target_ids) for example in examples])
        weight_ES = torch.tensor([self._weights[example.task] for example in examples])
        if self._by_loss:
            loss_ES = torch.stack([self._losses(examples, length_E, *each) for each in found], -1)
            weight_ES = trusted(weight_ES, loss_ES)
        weight_NS = weight_ES.repeat_interleave(length_E, 0)
        ids_NK = torch.cat([ids_NK for ids_NK, _ in found], -1)
        weighted = [weight_NS[:, number, None] * probs_NK for number, (_, probs_NK) in enumerate(found)]
        return _merged(ids_NK, torch.cat(weighted, -1))

    def _losses(self, examples: Sequence[Encoded], length_E: Tensor, ids_NK: Tensor, probs_NK: Tensor) -> Tensor:
        """One teacher's mean loss on each target, `(E,)`; what its labels do not list has the least that they tell."""
        target_N = torch.tensor([token for example in examples for token in example.target_ids])
        told_N = (probs_NK * (ids_NK == target_N[:, None])).sum(-1).clamp(min=self._least)
        return torch.stack([-part_N.log().mean() for part_N in torch.split(told_N, length_E.tolist())])


def trusted(weight_ES: Float[Tensor, "e s"], loss_ES: Float[Tensor, "e s"]) -> Float[Tensor, "e s"]:
    """The weights of teachers whose losses on the examples' targets are these, in nats a token."""
    return (weight_ES.log() - loss_ES).softmax(-1)


def _merged(ids_NK: Tensor, probs_NK: Tensor) -> tuple[Tensor, Tensor]:
    """The same with each id of a row once, its probabilities added up."""
    order_NK = ids_NK.argsort(dim=-1, descending=True, stable=True)
    ids_NK, probs_NK = ids_NK.gather(1, order_NK), probs_NK.gather(1, order_NK)
    new_NK = torch.ones_like(ids_NK, dtype=torch.bool)
    new_NK[:, 1:] = ids_NK[:, 1:] != ids_NK[:, :-1]
    place_NK = new_NK.cumsum(-1) - 1
    width = int(place_NK.max()) + 1 if place_NK.numel() else 0
    merged_NK = torch.full((len(ids_NK), width), -1, dtype=ids_NK.dtype).scatter_(1, place_NK, ids_NK)
    # Unused entries stand last and have no probability, whatever their number.
    return merged_NK, torch.zeros(len(ids_NK), width, dtype=probs_NK.dtype).scatter_add_(1, place_NK, probs_NK)
