"""Labels by rank, for students with other tokens: against the oracle, and against ULD from its definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from instil.objectives.config import DIVERGENCES, Divergence
from instil.objectives.fused import Mix
from instil.objectives.sparse import SparseLabels
from test_objectives import BOTH, Case, check, error, labels_of, make_case


def by_rank(case: Case) -> Case:
    """The same labels of somebody with other tokens: ranks for ids."""
    assert case.labels is not None
    ranks_NK = torch.where(case.labels.ids_NK < 0, -1, torch.arange(case.labels.ids_NK.shape[1]))
    return replace(case, labels=replace(case.labels, ids_NK=ranks_NK), mix=replace(case.mix, ranked=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_ranked_labels_agree_with_the_oracle(kind: Divergence, temperature: float, dtype: torch.dtype) -> None:
    mix = replace(BOTH, temperature=temperature, divergence=kind)
    for vocabulary, head, valid in ((3, 2, 3), (257, 12, 250), (6, 6, 6)):
        case = make_case(vocabulary=vocabulary, head=head, seed=vocabulary, valid=valid)
        check(by_rank(replace(case, mix=mix)), dtype=dtype)


@pytest.mark.parametrize(("own", "theirs"), [(40, 40), (40, 25)])
def test_total_variation_by_rank_is_half_of_uld_and_a_lower_bound_of_it(own: int, theirs: int) -> None:
    """ULD from its definition: the summed differences of sorted probabilities, the smaller vocabulary filled up."""
    case = replace(make_case(rows=6, vocabulary=own), bias_V=None)
    generator = torch.Generator().manual_seed(9)
    p_NV = (2 * torch.randn(6, theirs, generator=generator, dtype=torch.float64)).softmax(-1)
    p_NV = torch.nn.functional.pad(p_NV.sort(descending=True).values, (0, own - theirs))
    hidden_ND = case.hidden_ND.detach().requires_grad_()
    q_NV = (hidden_ND @ case.weight_VD.detach().T).softmax(-1).sort(descending=True).values
    uld = (p_NV - q_NV).abs().sum()
    uld.backward()
    mix = Mix(soft=1.0, hard=0.0, divergence="total_variation", ranked=True)

    def held(head: int) -> Case:
        labels = SparseLabels(ids_NK=torch.arange(head).repeat(6, 1), probs_NK=p_NV[:, :head])
        return replace(case, labels=labels, mix=mix).as_type(torch.float64)

    whole = held(theirs)
    found = whole.fused().total
    found.backward()
    assert 2 * float(found.detach()) == pytest.approx(float(uld.detach()), abs=1e-10)
    assert whole.hidden_ND.grad is not None and error(2 * whole.hidden_ND.grad, hidden_ND.grad) < 1e-10
    bounds = [2 * float(held(head).fused().total.detach()) for head in (1, 3, 8, 20)]
    assert bounds == sorted(bounds) and bounds[0] > 0 and bounds[-1] <= float(uld.detach()) + 1e-12


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_row_without_entries_learns_nothing_soft(kind: Divergence) -> None:
    mix = Mix(soft=1.0, hard=0.0, divergence=kind, ranked=True)
    case = replace(make_case(), labels=labels_of(5, {-1: 0.0}), mix=mix).as_type(torch.float32)
    total = case.fused().total
    total.backward()
    assert float(total.detach()) < 1e-25
    assert case.hidden_ND.grad is not None and float(case.hidden_ND.grad.abs().max()) < 1e-25
