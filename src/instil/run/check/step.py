"""One labelled batch through the student as training would take it: what its losses are, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from instil.data.tokens import Encoded
from instil.evaluate.memory import added_memory
from instil.models.family import family_of
from instil.models.loading import to_accelerator
from instil.models.probe import evaluating
from instil.objectives.sparse import SparseLabels
from instil.run.sections.distil import DistilConfig
from instil.run.stages.distil import matching, mix_of
from instil.train.preflight import Canary, canary, text_batch
from instil.train.task import RowLoss


@dataclass(frozen=True, slots=True)
class Untrained:
    """The student as it is before it learns. `kept`: the decoder layers of its teacher that it has, if it was cut."""

    model: Any
    tokenizer: Any
    kept: Sequence[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a batch of `tokens` tells of training: the canary's losses, and the bytes that gradients and all that is
    kept for them take (None where that cannot be told)."""

    canary: Canary
    tokens: int
    peak: int | None


def logits_of(model: Any, examples: Sequence[Encoded]) -> Float[Tensor, "n v"]:
    """The logits of `model` at the rows of `examples`, on the CPU."""
    family = family_of(model)
    with evaluating(model):
        rows = family.rows(model, family.collate(examples).to(next(model.parameters()).device))
        return rows.head.logits(rows.hidden_ND).float().cpu()


def take_step(
    section: DistilConfig, student: Untrained, examples: Sequence[Encoded], labels: Mapping[float, SparseLabels],
    least: float | None, teacher: Any,
) -> Step:  # fmt: skip
    """The canary of `section`'s objective, measured; `teacher` for features, where they are matched."""
    model = to_accelerator(student.model)
    family = family_of(model)
    module = RowLoss(model, family, mix_of(section, least)(0.0), section.weigh)
    features = None
    if teacher is not None and section.features:
        features = matching(section.features, module, teacher, {"decoder": student.kept} if student.kept else {})
    batch = text_batch(family, examples, labels).to(next(model.parameters()).device)
    found: list[Canary] = []
    peak = added_memory(lambda: found.append(canary(module, batch, features)))
    return Step(canary=found[0], tokens=batch.tokens, peak=peak)
