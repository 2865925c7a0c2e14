"""A store's labels for a student with tokens of its own: rows meet where both have read as much of the target.

What two vocabularies can be asked of a text is how sure each is of what comes next, not of which token. So each label
is put down by rank: the probability of the teacher's first choice, of its second, ... (ULD, Boizard et al. 2024, arXiv
2402.12030), to be held against the student's own first choice, its second, ...; `Mix.ranked` does so.

Shape letters: N rows of the student, K entries of a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from instil.core.errors import LabelError
from instil.data.prompts import Prompt
from instil.data.tokens import Encoded, Kind, tokenize_targets
from instil.labels.mixed import MixedLabels
from instil.labels.store import LabelStore

NOWHERE = -1
Ends = Sequence[int]
"""For each row of a target, how many of its characters the row has read; `NOWHERE` for a row that stands inside a
character, and for one behind which another has read as much."""


class AlignedLabels:
    """`store`, read by a student with other tokens. `originals`: the examples as the teacher reads them. `theirs`,
    `own`: the ends of teacher's and student's rows by record."""

    def __init__(
        self,
        store: LabelStore | MixedLabels,
        originals: Sequence[Encoded],
        theirs: Mapping[str, Ends],
        own: Mapping[str, Ends],
    ) -> None:
        self._store = store
        self._originals = {example.id: example for example in originals}
        self._theirs, self._own = theirs, own

    def rows(self, example: Encoded) -> list[int]:
        """For each row of the student's `example`, the teacher's that has read as much of the target, or `NOWHERE`."""
        count = len(self._originals[example.id].target_ids)
        place = {end: row for row, end in enumerate(self._theirs[example.id][:count]) if end != NOWHERE}
        met = [place.get(end, NOWHERE) for end in self._own[example.id][: len(example.target_ids)]]
        return met + [NOWHERE] * (len(example.target_ids) - len(met))

    def read(
        self, examples: Sequence[Encoded], temperature: float | None = None
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Like `LabelStore.read`, for the student's `examples`: the ids are ranks. A row that meets none of the
        teacher's has no entries, so that a divergence from it is zero, whatever the student says."""
        originals = [self._originals[example.id] for example in examples]
        _, probs_MK = self._store.read(originals, temperature)
        starts = torch.tensor([0, *(len(original.target_ids) for original in originals)]).cumsum(0).tolist()
        row_N = torch.tensor([
            start + row if row != NOWHERE else len(probs_MK)
            for start, example in zip(starts, examples, strict=False)
            for row in self.rows(example)
        ])  # fmt: skip
        # The last one, which has nothing, is for rows that meet none.
        probs_NK = torch.nn.functional.pad(probs_MK, (0, 0, 0, 1))[row_N].sort(-1, descending=True).values
        ranks_K = torch.arange(probs_NK.shape[1])
        return torch.where(probs_NK > 0, ranks_K, NOWHERE), probs_NK


def target_ends(tokenizer: Any, prompt: Prompt, targets: Sequence[str], kind: Kind) -> list[Ends]:
    """How much of each target every row has read, all targets encoded as for training. What stands between prompt and
    target counts as read from the beginning. Raises `LabelError` for a tokenizer that cannot tell."""
    if not getattr(tokenizer, "is_fast", False):
        raise LabelError(
            f"{type(tokenizer).__name__} cannot tell where its tokens end in a text, only tokenizers with a"
            " tokenizer.json can; learn from texts: distil.alpha: 0 and labels.targets: teacher"
        )
    before = 0 if kind == "encoder-decoder" else len(prompt.separator)
    encodings = tokenize_targets(tokenizer, prompt, targets, kind).encodings or []
    return [_ends(each.offsets, each.special_tokens_mask, before) for each in encodings]


def _ends(offsets: Sequence[tuple[int, int]], special: Sequence[int], before: int) -> list[int]:
    """The ends of the rows that predict these tokens, and of one more, which predicts the end of the text."""
    # What a tokenizer adds stands for no character; behind the text, the end of the text is predicted but once.
    spans = [None if apart else span for span, apart in zip(offsets, special, strict=True)]
    while spans and spans[-1] is None:
        spans.pop()
    read, ends = 0, [0]
    for span, following in zip(spans, [*spans[1:], None], strict=True):
        read = span[1] if span else read
        # Tokens that share a character all name its whole span.
        inside = following is not None and following[0] < read
        ends.append(NOWHERE if inside else max(0, read - before))
    return [NOWHERE if end in ends[row + 1 :] else end for row, end in enumerate(ends)]
