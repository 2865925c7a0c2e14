"""A store's labels for a student that knows only some of the teacher's tokens.

The store checks each record by the teacher's own tokens, so it is asked with those; what it gives is put into the
student's ids. The probability of an id that the student lacks falls to all that it has beyond the row's other ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from instil.data.tokens import Encoded
from instil.labels.mixed import MixedLabels
from instil.labels.store import LabelStore
from instil.models.students.vocabulary.link import Link


class LinkedLabels:
    """`store`, read by a student whose tokens `link` ties to the teacher's. `originals`: the examples as the teacher
    reads them."""

    def __init__(self, store: LabelStore | MixedLabels, link: Link, originals: Sequence[Encoded]) -> None:
        self._store = store
        self._link = link
        self._originals = {example.id: example for example in originals}

    def fits(self, example: Encoded) -> bool:
        """Whether the target of the student's `example` is the same tokens as the teacher's, so that rows match."""
        return self._link.to_teacher(example.target_ids) == self._originals[example.id].target_ids

    def read(
        self, examples: Sequence[Encoded], temperature: float | None = None
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Like `LabelStore.read`, for the student's `examples` that fit, in its ids."""
        ids_NK, probs_NK = self._store.read([self._originals[example.id] for example in examples], temperature)
        return self._link.to_student(ids_NK), probs_NK
