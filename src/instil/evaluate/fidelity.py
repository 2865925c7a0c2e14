"""How near a student is to its teacher where both predict the same target tokens, and how far each can be trusted.

Rows only, a chunk at a time. Each example's sums are kept, so these are measures like any other, with intervals.

Shapes: N rows of a batch, C rows of a chunk, V vocabulary, E examples, S statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from instil.core.errors import ModelError
from instil.data.batches import epoch_batches
from instil.data.tokens import Encoded
from instil.evaluate.metric import Counted, Measure
from instil.evaluate.significance import Floats
from instil.models.family import Family, Rows
from instil.models.probe import evaluating

_CHUNK_NUMBERS = 1 << 24
BINS = 15
"""Of confidence, equally wide (Guo et al. 2017, arXiv 1706.04599)."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A model with its family."""

    model: nn.Module
    family: Family

    def rows(self, examples: Sequence[Encoded]) -> Rows:
        """The rows of `examples`, without gradients."""
        with evaluating(self.model):
            return self.family.rows(self.model, self.family.collate(examples).to(next(self.model.parameters()).device))


def calibration_error(sums_RS: Floats) -> Floats:
    """Expected calibration error in percent: how far confidence and accuracy lie apart in the bins, by their rows.

    `sums_RS`: for each bin rows, confidence and hits. It is never below 0, so a little above where nothing is wrong.
    """
    rows_RB, confidence_RB, hits_RB = np.split(sums_RS, 3, axis=1)
    with np.errstate(invalid="ignore"):
        return 100 * abs(confidence_RB - hits_RB).sum(axis=1) / rows_RB.sum(axis=1)


LOSS = Measure(name="loss", unit="nats a token", better="lower", signature="loss|targets:first|tokens:own")
CALIBRATION = Measure(
    name="calibration_error", unit="%", better="lower", value=calibration_error,
    signature=f"calibration_error|targets:first|bins:{BINS}|width:equal|confidence:first choice",
)  # fmt: skip
KL = Measure(name="teacher_kl", unit="nats a token", better="lower", signature="teacher_kl|KL(teacher,student)|T:1")
AGREEMENT = Measure(name="teacher_agreement", unit="%", better="higher", signature="teacher_agreement|first choice")
ACCEPTANCE = Measure(
    name="speculative_acceptance", unit="%", better="higher", signature="speculative_acceptance|sum min(p,q)|T:1"
)
"""The expected share of the student's drafts that its teacher accepts (Leviathan et al. 2023, arXiv 2211.17192)."""


def examine(
    student: Reader,
    examples: Sequence[Encoded],
    *,
    teacher: Reader | None = None,
    batch_tokens: int = 4096,
    done: Callable[[int], object] | None = None,
) -> list[Counted]:
    """Loss and calibration of `student` on the targets of `examples`; with a `teacher` of the same tokens also KL,
    agreement and acceptance. Raises `ModelError` where the two have different vocabularies.

    `done` is told how many examples are through.
    """
    found: dict[str, list[Floats]] = {}
    order: list[int] = []
    lengths = [example.length for example in examples]
    for indices in epoch_batches(lengths, tokens=max([batch_tokens, *lengths]), seed=0, epoch=0):
        batch = [examples[index] for index in indices]
        rows = student.rows(batch)
        theirs = teacher.rows(batch) if teacher else None
        for measure, sums_ES in _sums(rows, theirs, len(batch)).items():
            found.setdefault(measure, []).append(sums_ES)
        order += indices
        if done:
            done(len(order))
    back = np.argsort(order)
    measures = {measure.name: measure for measure in (LOSS, CALIBRATION, KL, AGREEMENT, ACCEPTANCE)}
    return [Counted(measures[name], np.concatenate(parts)[back]) for name, parts in found.items()]


@torch.inference_mode()
def _sums(student: Rows, teacher: Rows | None, examples: int) -> Mapping[str, Floats]:
    """Each example's statistics, shape (E, S), by measure."""
    if teacher and teacher.head.n_valid != student.head.n_valid:
        sizes = f"{teacher.head.n_valid} ids, the student's {student.head.n_valid}"
        raise ModelError(f"the teacher predicts {sizes}; only models of one vocabulary can be held against each other")
    rows_E = np.bincount(student.example_N.cpu().numpy(), minlength=examples).astype(np.float64)
    sums: dict[str, Tensor] = {}
    for example_C, values in _chunks(student, teacher):
        for name, value_C in values.items():
            shape = (examples, *value_C.shape[1:])
            total = sums.setdefault(name, torch.zeros(shape, dtype=torch.float64, device=value_C.device))
            total.index_add_(0, example_C, value_C.double())
    found = {name: total.cpu().numpy().reshape(examples, -1) for name, total in sums.items()}
    return {
        name: value_ES if name == CALIBRATION.name else np.column_stack([value_ES, rows_E])
        for name, value_ES in found.items()
    }


def _chunks(student: Rows, teacher: Rows | None) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """The example of each row and the values of each measure, a few rows at a time."""
    size = max(1, _CHUNK_NUMBERS // student.head.n_valid)
    for start in range(0, len(student.target_N), size):
        part = slice(start, start + size)
        log_q_CV = student.head.logits(student.hidden_ND[part]).float().log_softmax(-1)
        values = _own(log_q_CV, student.target_N[part])
        if teacher:
            log_p_CV = teacher.head.logits(teacher.hidden_ND[part]).float().log_softmax(-1).to(log_q_CV.device)
            values |= _against(log_p_CV, log_q_CV)
        yield student.example_N[part], values


def _own(log_q_CV: Tensor, target_C: Tensor) -> dict[str, Tensor]:
    confidence_C, choice_C = log_q_CV.max(-1)
    confidence_C = confidence_C.exp()
    bin_C = (confidence_C * BINS).long().clamp_max(BINS - 1)
    per_bin_C3 = torch.stack([torch.ones_like(confidence_C), confidence_C, (choice_C == target_C).float()], -1)
    table_C3B = confidence_C.new_zeros(len(bin_C), 3, BINS)
    table_C3B.scatter_(2, bin_C[:, None, None].expand(-1, 3, 1), per_bin_C3[..., None])
    return {LOSS.name: -log_q_CV.gather(1, target_C[:, None])[:, 0], CALIBRATION.name: table_C3B}


def _against(log_p_CV: Tensor, log_q_CV: Tensor) -> dict[str, Tensor]:
    p_CV = log_p_CV.exp()
    return {
        KL.name: (p_CV * (log_p_CV - log_q_CV)).nan_to_num(0.0).sum(-1).clamp_min(0),
        AGREEMENT.name: 100.0 * (log_p_CV.argmax(-1) == log_q_CV.argmax(-1)),
        ACCEPTANCE.name: 100.0 * torch.minimum(p_CV, log_q_CV.exp()).sum(-1),
    }
