"""Which of a teacher's tokens each of a student's is, so that a student with fewer can learn from the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NONE = -1


@dataclass(frozen=True)
class Link:
    """`teacher_ids`: the teacher's id of each of the student's tokens, -1 for an id that stands for no token."""

    teacher_ids: tuple[int, ...]

    def to_teacher(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The same tokens by the teacher's ids."""
        return tuple(self.teacher_ids[each] for each in ids)

    def to_student(self, ids_NK: Int[Tensor, "n k"]) -> Int[Tensor, "n k"]:
        """The same tokens by the student's ids; -1 for those that it lacks, and where it was -1 before."""
        known_NK = (ids_NK >= 0) & (ids_NK < len(self._student_ids))
        return self._student_ids[ids_NK.where(known_NK, 0)].where(known_NK, NONE)

    @cached_property
    def _student_ids(self) -> Tensor:
        found = torch.full((max(self.teacher_ids, default=NONE) + 1,), NONE)
        for own, theirs in enumerate(self.teacher_ids):
            if theirs != NONE:
                found[theirs] = own
        return found


def link(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> Link | None:
    """The link between two tokenizers; None where the student's has a token that the teacher's lacks."""
    theirs, own = teacher.get_vocab(), student.get_vocab()
    if not own.keys() <= theirs.keys():
        return None
    ids = [NONE] * (max(own.values()) + 1)
    for token, number in own.items():
        ids[number] = theirs[token]
    return Link(tuple(ids))
