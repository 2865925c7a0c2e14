"""Dense labels of a teacher in memory: every divergence against the oracle, and the same door as stored labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from instil.objectives.config import DIVERGENCES, Divergence
from instil.objectives.dense import DenseLabels, MixedDenseLabels
from instil.objectives.fused import Mix, Projection, RowLabels, row_loss
from instil.objectives.sparse import SparseLabels
from oracle import dense_logits, dense_loss
from test_objectives import Watch

N, D, E, V = 12, 6, 5, 23
SOFTCAP = Projection(scale=0.7, softcap=2.0, n_valid=V - 2)


def leaves(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head weight and targets of a student, in fp64."""
    generator = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(N, D, generator=generator, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(V, D, generator=generator, dtype=torch.float64, requires_grad=True)
    return hidden_ND, weight_VD, torch.randint(V - 2, (N,), generator=generator)


def teacher(
    ids: int = V, projection: Projection | None = None, bias: bool = True, *, seed: int = 7, width: int = E
) -> DenseLabels:
    generator = torch.Generator().manual_seed(seed)
    return DenseLabels(
        hidden_NE=torch.randn(N, width, generator=generator, dtype=torch.float64),
        weight_VE=torch.randn(ids, width, generator=generator, dtype=torch.float64),
        bias_V=torch.randn(ids, generator=generator, dtype=torch.float64) if bias else None,
        projection=projection or Projection(),
    )


def written_out(labels: DenseLabels, ids: int, temperature: float) -> SparseLabels:
    """A head over every one of the student's `ids`, from the teacher's logits at once."""
    logits_NV = dense_logits(labels.hidden_NE, labels.weight_VE, labels.bias_V, labels.projection)[:, :ids]
    probs_NV = (logits_NV / temperature).softmax(-1)
    missing = ids - probs_NV.shape[1]
    probs_NV = torch.cat([probs_NV, probs_NV.new_zeros(N, missing)], -1)
    return SparseLabels(ids_NK=torch.arange(ids).expand(N, ids), probs_NK=probs_NV)


def agree(mix: Mix, labels: RowLabels, plain: SparseLabels, *, chunk: int) -> None:
    """Value and gradients with `labels` are those that the oracle has with the `plain` distributions, in fp64."""
    own, theirs = leaves(), leaves()
    found = row_loss(*own, mix=mix, projection=SOFTCAP, labels=labels, chunk=chunk)
    wanted = dense_loss(*theirs, mix=mix, projection=SOFTCAP, labels=plain)
    assert found.total.item() == pytest.approx(wanted.total.item(), rel=1e-9)
    assert found.soft == pytest.approx(float(wanted.soft), rel=1e-9)
    found.total.backward()
    wanted.total.backward()
    for mine, other in zip(own[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("hard", [0.0, 0.3])
def test_every_divergence_agrees_with_the_oracle(kind: Divergence, temperature: float, hard: float) -> None:
    mix = Mix(soft=0.7, hard=hard, temperature=temperature, divergence=kind, beta=0.3)
    labels = teacher(projection=SOFTCAP)
    agree(mix, labels, written_out(labels, V - 2, mix.temperature), chunk=4)


@pytest.mark.parametrize("ids", [V - 5, V, V + 6])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_ids_that_one_of_both_lacks_hold_nothing(ids: int, kind: Divergence) -> None:
    mix, labels = Mix(soft=1.0, hard=0.0, divergence=kind), teacher(ids)
    own = leaves()
    found = row_loss(*own, mix=mix, labels=labels)
    wanted = dense_loss(*leaves(), mix=mix, labels=written_out(labels, V, 1.0))
    assert found.total.item() == pytest.approx(wanted.total.item(), rel=1e-9)
    found.total.backward()
    assert all(bool(leaf.grad.isfinite().all()) for leaf in own[:2] if leaf.grad is not None)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_zero_between_equals(kind: Divergence) -> None:
    hidden_ND, weight_VD, target_N = leaves()
    labels = DenseLabels(hidden_NE=hidden_ND.detach(), weight_VE=weight_VD.detach())
    found = row_loss(hidden_ND, weight_VD, target_N, mix=Mix(soft=1.0, hard=0.0, divergence=kind), labels=labels)
    found.total.backward()
    assert found.soft == pytest.approx(0, abs=1e-12)
    assert hidden_ND.grad is not None
    # The total variation has a kink where they agree.
    assert kind == "total_variation" or float(hidden_ND.grad.abs().max()) < 1e-12


def test_the_teachers_head_is_made_a_chunk_at_a_time() -> None:
    """No tensor of all rows by vocabulary exists, whatever the teacher's width."""
    hidden_ND, weight_VD, target_N = leaves()
    with Watch() as watch:
        row_loss(hidden_ND, weight_VD, target_N, mix=Mix(soft=1.0, hard=0.0), labels=teacher(), chunk=2)
    assert watch.largest <= V * max(D, E)


def test_labels_move_whole() -> None:
    moved = teacher().to(torch.device("cpu"))
    assert moved.bias_V is not None and torch.equal(moved.hidden_NE, teacher().hidden_NE)


# Several teachers


def three_teachers() -> MixedDenseLabels:
    """Of other widths, heads and numbers of padded ids; each row has weights of its own, some of them zero."""
    teachers = teacher(projection=SOFTCAP), teacher(V + 4, seed=8, width=E + 2), teacher(V - 5, bias=False, seed=9)
    generator = torch.Generator().manual_seed(3)
    weight_NS = torch.rand(N, 3, generator=generator, dtype=torch.float64) + 0.05
    weight_NS[0, 1] = weight_NS[1, 0] = 0
    return MixedDenseLabels(teachers=teachers, weight_NS=weight_NS / weight_NS.sum(-1, keepdim=True))


def mixed_out(labels: MixedDenseLabels, ids: int, temperature: float) -> SparseLabels:
    """The plain mixture, row by row, of each teacher's whole distribution."""
    each = [written_out(one, ids, temperature).probs_NK for one in labels.teachers]
    rows = [sum(float(w) * p_NV[n] for w, p_NV in zip(labels.weight_NS[n], each, strict=True)) for n in range(N)]
    return SparseLabels(ids_NK=torch.arange(ids).expand(N, ids), probs_NK=torch.stack(rows))


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("hard", [0.0, 0.3])
def test_a_mixture_of_teachers_agrees_with_the_oracle(kind: Divergence, temperature: float, hard: float) -> None:
    """Value and gradients against the plain mixture in fp64; chunks cut through the rows' weights."""
    mix = Mix(soft=0.7, hard=hard, temperature=temperature, divergence=kind, beta=0.3)
    labels = three_teachers()
    agree(mix, labels, mixed_out(labels, V - 2, mix.temperature), chunk=5)


def test_a_mixture_with_one_teacher_of_weight_one_is_that_teacher() -> None:
    mix, labels = Mix(soft=0.7, hard=0.3), three_teachers()
    for number, alone in enumerate(labels.teachers):
        weight_NS = torch.zeros(N, 3, dtype=torch.float64)
        weight_NS[:, number] = 1
        mixed = MixedDenseLabels(teachers=labels.teachers, weight_NS=weight_NS)
        found, wanted = (row_loss(*leaves(), mix=mix, labels=each).total for each in (mixed, alone))
        assert found.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_a_mixture_is_made_a_chunk_at_a_time() -> None:
    hidden_ND, weight_VD, target_N = leaves()
    with Watch() as watch:
        row_loss(hidden_ND, weight_VD, target_N, mix=Mix(soft=1.0, hard=0.0), labels=three_teachers(), chunk=2)
    assert watch.largest <= (V + 4) * (E + 2)


def test_a_mixture_moves_whole() -> None:
    labels = three_teachers()
    moved = labels.to(torch.device("meta"))
    assert {each.hidden_NE.device.type for each in moved.teachers} == {"meta"} == {moved.weight_NS.device.type}
