"""Labels of several teachers, read as those of one: the mixture of their distributions, each by its weight.

A mixture of unbiased estimates is one of the mixture, so drawn ids need no more than their share.

Shape letters: N rows, K entries of the fullest row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from instil.core.errors import LabelError
from instil.data.tokens import Encoded
from instil.labels.store import LabelStore, StoreManifest


class MixedLabels:
    """`stores` with their `weights`, which add up to 1. Raises `LabelError` for teachers of other vocabularies."""

    def __init__(self, stores: Sequence[LabelStore], weights: Sequence[float]) -> None:
        sizes = {str(store.folder): store.manifest.codec.vocabulary for store in stores}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{folder} has {size:,} ids" for folder, size in sizes.items())
            raise LabelError(f"labels of other vocabularies cannot be mixed ({told}); leave one out")
        self._stores = tuple(stores)
        self._weights = tuple(weights)

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
        ids_NK = torch.cat([ids_NK for ids_NK, _ in found], -1)
        weighted = zip(found, self._weights, strict=True)
        return _merged(ids_NK, torch.cat([weight * probs_NK for (_, probs_NK), weight in weighted], -1))


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
