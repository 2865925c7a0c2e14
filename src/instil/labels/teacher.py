"""Who labels: a teacher in memory. Rows only, chunk by chunk, all temperatures in one pass.

Shape letters: N rows of a batch, C rows of a chunk, V vocabulary, R rows of a shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from instil.core.errors import LabelError
from instil.core.fingerprint import fingerprint
from instil.data.batches import epoch_batches
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.draw import Picks, pick
from instil.labels.shard import Columns
from instil.models.family import Family, Rows
from instil.models.probe import evaluating

_CHUNK_NUMBERS = 1 << 24
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """The labels of some examples: their rows' columns at each temperature, and sums over the rows at the first:
    `rows`, `heads` and `drawn` (entries), `head_mass`, `loss` on the targets at temperature 1 in nats, `agree` (targets
    that are the first choice), `found` (targets in the head), and whatever else a labeller counts."""

    columns: Sequence[Columns]
    sums: Mapping[str, float]


class Labeller(Protocol):
    """Who labels: a model in memory, or one behind a server."""

    @property
    def vocabulary(self) -> int:
        """Number of ids that it predicts."""

    def label(
        self, examples: Sequence[Encoded], codec: Codec, *, aside: Path, advance: Callable[[int], None]
    ) -> Labelled:
        """Labels of `examples`. `aside`: a file for what a killed run should not lose, the same in the next run;
        `advance` is called with the number of examples done."""


@dataclass(kw_only=True)
class Teacher:
    """A labeller: a model with its family, `batch_tokens` at a time."""

    model: nn.Module
    family: Family
    batch_tokens: int = 4096

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def vocabulary(self) -> int:
        """Number of ids that the model predicts."""
        return self.rows([Encoded("", (0,), (0,))]).head.n_valid

    def rows(self, examples: Sequence[Encoded]) -> Rows:
        """The rows of `examples`, without gradients."""
        with evaluating(self.model):
            return self.family.rows(self.model, self.family.collate(examples).to(self.device))

    @torch.inference_mode()
    def label(
        self, examples: Sequence[Encoded], codec: Codec, *, aside: Path, advance: Callable[[int], None]
    ) -> Labelled:
        """Labels of `examples`; nothing is put aside."""
        lengths = [example.length for example in examples]
        starts = np.concatenate([[0], np.cumsum([len(example.target_ids) for example in examples])])
        # Batches come sorted by length; `place` is where each of their rows belongs.
        place: list[NDArray[np.int64]] = []
        picks: list[list[Picks]] = [[] for _ in codec.temperatures]
        sums: dict[str, float] = defaultdict(float)
        for indices in epoch_batches(lengths, tokens=max([self.batch_tokens, *lengths]), seed=0, epoch=0):
            rows = self.rows([examples[index] for index in indices])
            target_N = torch.tensor([token for index in indices for token in examples[index].target_ids])
            starts_N = torch.from_numpy(np.concatenate([_draw_starts(examples[index]) for index in indices]))
            for logits_CV, target_C, starts_C in chunks(rows, target_N, starts_N.float()):
                for number, found in enumerate(_pick_all(codec, logits_CV, target_C, starts_C, sums)):
                    picks[number].append(found)
            place.extend(np.arange(starts[index], starts[index + 1]) for index in indices)
            advance(len(place))
        back = torch.from_numpy(np.argsort(np.concatenate(place), kind="stable"))
        return Labelled(columns=[columns_of(each, back) for each in picks], sums=sums)


def _draw_starts(example: Encoded) -> NDArray[np.float64]:
    """Where the draw of each row begins: spread evenly over a text's rows, and the same in any batch."""
    first = int(fingerprint(example.id), 16) / 16**16
    return np.modf(first + _GOLDEN * np.arange(len(example.target_ids), dtype=np.float64))[0]


def chunks(rows: Rows, *columns_N: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Logits in fp32 and these columns of a few rows at a time, where the logits are."""
    size = max(1, _CHUNK_NUMBERS // rows.head.n_valid)
    for start in range(0, len(rows.hidden_ND), size):
        part = slice(start, start + size)
        logits_CV = rows.head.logits(rows.hidden_ND[part]).float()
        yield logits_CV, *(column_N[part].to(logits_CV.device) for column_N in columns_N)


def _pick_all(
    codec: Codec, logits_CV: Tensor, target_C: Tensor, starts_C: Tensor, sums: dict[str, float]
) -> Iterator[Picks]:
    """The picks of a chunk at each temperature; adds to `sums` what the teacher thinks of the targets."""
    total_C = logits_CV.logsumexp(-1)
    gold_C = logits_CV.gather(1, target_C[:, None])[:, 0] - total_C
    if not bool(gold_C.isfinite().all()):
        raise LabelError("the teacher gives a target no finite probability; check its weights and its precision")
    sums["loss"] -= float(gold_C.cpu().double().sum())
    sums["agree"] += int((logits_CV.argmax(-1) == target_C).sum())
    for number, temperature in enumerate(codec.temperatures):
        last = number == len(codec.temperatures) - 1
        scaled_CV = logits_CV.div_(temperature) if last else logits_CV / temperature
        found = pick(scaled_CV, codec, starts_C, total_C if temperature == 1 else None)
        if number == 0:
            sums["rows"] += len(target_C)
            sums["heads"] += int((found.head_CK >= 0).sum())
            sums["drawn"] += int((found.drawn_CM >= 0).sum())
            sums["head_mass"] += float(found.masses_CK.sum()) / codec.unit
            sums["found"] += int((found.head_CK == target_C[:, None]).sum())
        yield Picks(head_CK=found.head_CK.cpu(), masses_CK=found.masses_CK.cpu(), drawn_CM=found.drawn_CM.cpu())


def columns_of(picks: Sequence[Picks], back_R: Tensor) -> Columns:
    """The rows of all `picks` as a shard stores them, in the order that the row numbers `back_R` say."""
    head_RK, masses_RK, drawn_RM = (
        _stacked([getattr(each, name) for each in picks])[back_R] for name in ("head_CK", "masses_CK", "drawn_CM")
    )
    used_RK, used_RM = head_RK >= 0, drawn_RM >= 0
    parts = used_RK.sum(-1), used_RM.sum(-1), head_RK[used_RK], masses_RK[used_RK], drawn_RM[used_RM]
    heads, draws, ids, masses, drawn = (tensor.numpy().astype(np.uint32) for tensor in parts)
    return Columns(heads_R=heads, draws_R=draws, ids_H=ids, masses_H=masses, drawn_S=drawn)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """The rows of all, widened with -1 to the widest."""
    widest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([nn.functional.pad(tensor, (0, widest - tensor.shape[1]), value=-1) for tensor in tensors])
