"""What is stored of a row, and with how many bits.

A row's label is its *head*, ids with their probabilities, and ids *drawn* from the tail (see `draw.py`). Probabilities
are whole numbers of units, 1 / (2^digits - 1) each; the head's units and the tail's add up to one exactly, so the tail
needs no field of its own, and each drawn id stands for an equal part of it.

Shape letters: R rows, K head entries of the fullest row, M drawn ids of the fullest row.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from instil.core.errors import LabelError
from instil.labels.bits import bits_for
from instil.labels.config import Detail

LARGEST_VOCABULARY = 1 << 20
THRESHOLDS: dict[Detail, float] = {"small": 0.13, "default": 0.036, "fine": 0.0095}
"""The dial of `draw.py` for each named setting; `benchmarks.labels` measures what they cost and keep."""


class Codec(BaseModel):
    """How rows of a teacher with `vocabulary` output ids are stored, at each of `temperatures`.

    `head`: most entries of a head. `threshold`: least probability of an entry. `draws`: whether ids of the tail are
    drawn, each for about `threshold`. `digits`: bits of a probability.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: int = Field(gt=0, le=LARGEST_VOCABULARY)
    temperatures: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    head: int = Field(gt=0)
    threshold: float = Field(default=0.0, ge=0, lt=1)
    draws: bool = False
    digits: int = Field(default=16, ge=4, le=20)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.draws and not self.threshold:
            raise ValueError("a codec that draws needs a threshold above 0")
        return self

    @classmethod
    def of(cls, detail: Detail, vocabulary: int, temperatures: tuple[float, ...] = (1.0,)) -> Codec:
        """The named setting for a teacher with `vocabulary` ids."""
        threshold = THRESHOLDS[detail]
        head = min(vocabulary, math.floor(1 / threshold))
        # A unit of an eighth of the threshold: more digits were not nearer, since drawing adds far more than rounding.
        digits = math.ceil(math.log2(1 / threshold)) + 3
        return cls(
            vocabulary=vocabulary, temperatures=temperatures, head=head, threshold=threshold, draws=True, digits=digits
        )

    @classmethod
    def top(cls, head: int, vocabulary: int, temperatures: tuple[float, ...] = (1.0,)) -> Codec:
        """The `head` most probable ids and the tail's mass as one cell: a plain partition, nothing drawn."""
        return cls(vocabulary=vocabulary, temperatures=temperatures, head=min(head, vocabulary))

    @property
    def unit(self) -> int:
        """So many units are a probability of 1."""
        return (1 << self.digits) - 1

    @property
    def most_drawn(self) -> int:
        """Most ids that are drawn for a row."""
        return min(self.vocabulary, math.ceil(1 / self.threshold)) if self.draws else 0

    @property
    def id_bits(self) -> int:
        """Bits of an id."""
        return bits_for(self.vocabulary)

    @property
    def head_count_bits(self) -> int:
        """Bits of a head's size."""
        return bits_for(self.head + 1)

    @property
    def drawn_count_bits(self) -> int:
        """Bits of a number of drawn ids."""
        return bits_for(self.most_drawn + 1)

    def at(self, temperature: float) -> int:
        """The place of `temperature` among the recorded ones. Raises `LabelError` where it is not recorded."""
        if temperature not in self.temperatures:
            recorded = ", ".join(f"{each:g}" for each in self.temperatures)
            raise LabelError(
                f"recorded at temperature {recorded}, but the recipe asks for {temperature:g};"
                " label again or change distil.temperature"
            )
        return self.temperatures.index(temperature)


def rectangle(
    codec: Codec,
    head_counts_R: NDArray[np.integer],
    drawn_counts_R: NDArray[np.integer],
    entries: tuple[NDArray[np.uint32], NDArray[np.uint32]],
    drawn: NDArray[np.uint32] | None,
) -> tuple[Int[np.ndarray, "r k"], Float[np.ndarray, "r k"]]:
    """Ids and probabilities of rows, a column an entry and the head's first, from what is stored one after the other.

    `entries`: ids and masses of all heads; `drawn`: ids of all draws, or None to leave them, and the tail, away.
    Unused places have id -1 and probability 0. With draws, a row that has any adds up to 1.
    """
    ids, masses = entries
    widest = int(head_counts_R.max(initial=0)), int(drawn_counts_R.max(initial=0)) if drawn is not None else 0
    ids_RK = np.full((len(head_counts_R), sum(widest)), -1, np.int64)
    probs_RK = np.zeros(ids_RK.shape, np.float32)
    head_RK = np.arange(widest[0]) < head_counts_R[:, None]
    ids_RK[:, : widest[0]][head_RK] = ids
    probs_RK[:, : widest[0]][head_RK] = masses / codec.unit
    if drawn is not None:
        # From whole units, so that a tail beside a large head keeps all its digits.
        taken_RK = np.zeros(head_RK.shape, np.int64)
        taken_RK[head_RK] = masses
        each_R = (codec.unit - taken_RK.sum(-1)) / codec.unit / np.maximum(drawn_counts_R, 1)
        drawn_RM = np.arange(widest[1]) < drawn_counts_R[:, None]
        ids_RK[:, widest[0] :][drawn_RM] = drawn
        probs_RK[:, widest[0] :] = np.where(drawn_RM, each_R[:, None], 0)
    return ids_RK, probs_RK
