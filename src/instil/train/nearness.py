"""How near is learning from stored labels to learning from the teacher's whole distribution?

The measure is the angle between the gradient that stored labels give a student and the dense one, with respect to all
of its parameters, over a batch of rows; and the same of each row with respect to its hidden state. Drawn labels err at
random, so their angle falls with the batch; what truncation leaves out stays.

Shape letters: N rows, V vocabulary, D width, K entries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.store import LabelStore
from instil.labels.teacher import Teacher
from instil.labels.writer import write_labels
from instil.models.family import Family, Rows
from instil.objectives.fused import Mix, row_loss
from instil.objectives.sparse import SparseLabels
from instil.train.task import projection_of

NEXT_BATCH = "dense, next batch"
_CHUNK = 64
"""Rows whose distributions over all tokens are in memory at once, beside the teacher's."""
Gradients = tuple[Tensor, Tensor]
"""With respect to hidden states `(N, D)` and head weight `(V, D)`."""
Backward = Callable[[Rows, Gradients], list[Tensor]]
"""Carries the gradients of rows back to whatever they are compared in."""
Labels = tuple[Tensor, Tensor]
"""Ids and probabilities `(N, K)`."""
Batch = tuple[Rows, Rows, Mapping[str, Labels]]
"""The student's rows, the teacher's, and stored labels by setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A way to store rows that is not ours: the distribution `(N, V)` that it trains towards, from the teacher's, and
    its bytes a row."""

    name: str
    bytes_per_token: float
    towards: Callable[[Tensor], Tensor]


def dense_gradients(rows: Rows, target_NV: Float[Tensor, "n v"]) -> Gradients:
    """Gradients of -sum target log q: q times the target's mass, minus the target. In chunks of rows."""
    with torch.no_grad():
        head, hidden_ND = rows.head, rows.hidden_ND.detach()
        to_hidden_ND, to_weight_VD = torch.empty_like(hidden_ND), torch.zeros_like(head.weight_VD)
        for start in range(0, len(hidden_ND), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            logits_NV = head.logits(hidden_ND[chunk])
            step_NV = logits_NV.softmax(-1) * target_NV[chunk].sum(-1, keepdim=True) - target_NV[chunk]
            if head.softcap is not None:
                step_NV *= 1 - (logits_NV / head.softcap).square()
            step_NV *= head.scale
            known = step_NV.shape[1]  # A padded head has rows that are no token.
            to_hidden_ND[chunk] = step_NV @ head.weight_VD[:known]
            to_weight_VD[:known] += step_NV.T @ hidden_ND[chunk]
        return to_hidden_ND, to_weight_VD


def label_gradients(rows: Rows, ids_NK: Int[Tensor, "n k"], probs_NK: Float[Tensor, "n k"]) -> Gradients:
    """Gradients of the forward KL from stored labels, through the objective that students learn by."""
    hidden_ND = rows.hidden_ND.detach().requires_grad_()
    weight_VD = rows.head.weight_VD.detach().requires_grad_()
    unread_N = torch.zeros(len(hidden_ND), dtype=torch.long)  # The soft loss alone does not look at targets.
    loss = row_loss(
        hidden_ND, weight_VD, unread_N, mix=Mix(soft=1.0, hard=0.0), projection=projection_of(rows.head),
        bias_V=rows.head.bias_V, labels=SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK),
    )  # fmt: skip
    hidden, weight = torch.autograd.grad(loss.total, (hidden_ND, weight_VD))
    return hidden, weight


def through(model: nn.Module) -> Backward:
    """Gradients of rows carried back to all parameters of `model`; the head's own is added to its weight."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def backward(rows: Rows, found: Gradients) -> list[Tensor]:
        carried = torch.autograd.grad(rows.hidden_ND, parameters, found[0], retain_graph=True, allow_unused=True)
        own = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, carried, strict=True)]
        place = next(i for i, p in enumerate(parameters) if p.data_ptr() == rows.head.weight_VD.data_ptr())
        own[place].add_(found[1])
        return own

    return backward


def degrees(dot: float, one: float, other: float) -> float:
    """The angle between vectors of squared lengths `one` and `other` with the inner product `dot`."""
    cosine = dot / max((one * other) ** 0.5, 1e-30)
    return float(torch.rad2deg(torch.acos(torch.tensor(min(1.0, max(-1.0, cosine)), dtype=torch.float64))))


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float(torch.dot(a.flatten(), b.flatten())) for a, b in zip(one, other, strict=True))


def _angle(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return degrees(_dot(one, other), _dot(one, one), _dot(other, other))


@dataclass(slots=True)
class Nearness:
    """Angles of one setting to the dense gradient, in degrees: of each batch, of each row, and of all batches' sum."""

    batches: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    whole: float = 0.0


def nearness(batches: Iterable[Batch], backward: Backward, rivals: Sequence[Rival] = ()) -> dict[str, Nearness]:
    """How near each setting of the `batches`, and each of `rivals`, comes to the dense gradient; and, for a scale, how
    near the dense gradients of one batch and the next are to each other (`NEXT_BATCH`)."""
    found: dict[str, Nearness] = defaultdict(Nearness)
    sums: dict[str, list[Tensor]] = {}
    dense_sum: list[Tensor] = []
    dense: list[Tensor] = []
    for student, teacher, stored in batches:
        with torch.no_grad():
            probs_NV = teacher.head.logits(teacher.hidden_ND).float().softmax(-1)
        exact = dense_gradients(student, probs_NV)
        before, dense = dense, backward(student, exact)
        dense_sum = _added(dense_sum, dense)
        if before:
            found[NEXT_BATCH].batches.append(_angle(before, dense))
        for name, own in _ways(student, probs_NV, stored, rivals):
            carried = backward(student, own)
            found[name].batches.append(_angle(carried, dense))
            cosine_N = torch.cosine_similarity(own[0].double(), exact[0].double(), dim=-1)
            found[name].rows.extend(torch.rad2deg(torch.acos(cosine_N.clamp(-1, 1))).tolist())
            sums[name] = _added(sums.get(name, []), carried)
    for name, total in sums.items():
        found[name].whole = _angle(total, dense_sum)
    return dict(found)


def _ways(
    student: Rows, probs_NV: Tensor, stored: Mapping[str, Labels], rivals: Sequence[Rival]
) -> Iterator[tuple[str, Gradients]]:
    for name, labels in stored.items():
        yield name, label_gradients(student, *labels)
    for rival in rivals:
        yield rival.name, dense_gradients(student, rival.towards(probs_NV))


def _added(total: list[Tensor], more: list[Tensor]) -> list[Tensor]:
    if not total:
        return [tensor.clone() for tensor in more]
    torch._foreach_add_(total, more)
    return total


class Remembering(Teacher):
    """A teacher that passes over examples once, however many codecs write their labels."""

    def rows(self, examples: Sequence[Encoded]) -> Rows:
        """As every teacher's, from memory where they were asked for before."""
        known: dict[tuple[str, ...], Rows] = self.__dict__.setdefault("_known", {})
        key = tuple(example.id for example in examples)
        if key not in known:
            known[key] = super().rows(examples)
        return known[key]


def write_stores(
    teacher: Teacher, examples: Sequence[Encoded], codecs: Mapping[str, Codec], folder: Path
) -> dict[str, LabelStore]:
    """A store of `examples` for each of `codecs`, in `folder`."""
    stores = {}
    for number, (name, codec) in enumerate(codecs.items()):
        write_labels(teacher, examples, folder / str(number), codec=codec, made_from={})
        stores[name] = LabelStore(folder / str(number), expect={}, temperature=1.0)
    return stores


def stored_batches(
    student: nn.Module,
    family: Family,
    teacher: Teacher,
    examples: Sequence[Encoded],
    stores: Mapping[str, LabelStore],
    *,
    rows: int,
) -> Iterator[Batch]:
    """Batches of the first `rows` rows of as many whole examples as hold them, to the last that fills one."""
    some: list[Encoded] = []
    held = 0
    for example in examples:
        some.append(example)
        held += len(example.target_ids)
        if held >= rows:
            own = _first(family.rows(student, family.collate(some)), rows)
            labels = {name: store.read(some) for name, store in stores.items()}
            yield own, _first(teacher.rows(some), rows), {
                name: (ids_NK[:rows], probs_NK[:rows]) for name, (ids_NK, probs_NK) in labels.items()
            }  # fmt: skip
            some, held = [], 0


def _first(rows: Rows, count: int) -> Rows:
    return Rows(rows.hidden_ND[:count], rows.head, rows.target_N[:count], rows.example_N[:count])
