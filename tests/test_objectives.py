"""The fused objective against the dense fp64 oracle: values, gradients, limits, memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from instil.objectives.config import DIVERGENCES, Divergence
from instil.objectives.divergences import divergence
from instil.objectives.fused import LossSums, Mix, Projection, row_loss
from instil.objectives.sparse import SparseLabels
from oracle import dense_loss

# Largest error, relative to the largest element where that is above 1. bf16 rounds the logits themselves to 3 digits.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}
BOTH = Mix(soft=0.7, hard=0.3, temperature=2.0, smoothing=0.1)


@dataclass(kw_only=True)
class Case:
    """The arguments of one call; leaves that want a gradient are `hidden_ND`, `weight_VD` and `bias_V`."""

    hidden_ND: Tensor
    weight_VD: Tensor
    target_N: Tensor
    bias_V: Tensor | None = None
    labels: SparseLabels | None = None
    weight_N: Tensor | None = None
    mix: Mix = BOTH
    projection: Projection = field(default_factory=Projection)

    @property
    def leaves(self) -> dict[str, Tensor]:
        found = {"hidden": self.hidden_ND, "weight": self.weight_VD, "bias": self.bias_V}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def as_type(self, dtype: torch.dtype) -> Case:
        """The same numbers, in fresh leaves of `dtype`."""

        def leaf(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(dtype).requires_grad_()

        hidden_ND, weight_VD = leaf(self.hidden_ND), leaf(self.weight_VD)
        return replace(self, hidden_ND=hidden_ND, weight_VD=weight_VD, bias_V=leaf(self.bias_V))

    def arguments(self) -> dict[str, Any]:
        names = ("target_N", "bias_V", "labels", "weight_N", "mix", "projection")
        return {
            "hidden_ND": self.hidden_ND,
            "weight_VD": self.weight_VD,
            **{name: getattr(self, name) for name in names},
        }

    def fused(self, chunk: int = 4) -> LossSums:
        return row_loss(**self.arguments(), chunk=chunk)


def make_case(
    *, rows: int = 5, vocabulary: int = 37, head: int = 4, width: int = 6, seed: int = 0, valid: int | None = None
) -> Case:
    """Random fp64 leaves; labels are the head of another random distribution, with one unused entry in each row."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    valid = valid or vocabulary
    teacher_NV = (2 * normal(rows, valid)).softmax(-1)
    probs_NK, ids_NK = teacher_NV.topk(min(head, valid))
    if 1 < ids_NK.shape[1] < valid:
        ids_NK[:, -1], probs_NK[:, -1] = -1, 0
    return Case(
        hidden_ND=normal(rows, width).requires_grad_(),
        weight_VD=normal(vocabulary, width).requires_grad_(),
        bias_V=normal(vocabulary).requires_grad_(),
        target_N=torch.randint(valid, (rows,), generator=generator),
        labels=SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK),
        projection=Projection(n_valid=valid if valid < vocabulary else None),
    )


def error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest wanted element where that is above 1."""
    if wanted.numel() == 0:
        return 0.0
    return float((found.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1))


def check(case: Case, *, dtype: torch.dtype = torch.float64, chunk: int = 4, tolerance: float | None = None) -> None:
    """Total, parts and every gradient of the fused loss agree with the oracle's on the same numbers."""
    tolerance = tolerance or TOLERANCE[dtype]
    case = case.as_type(dtype)
    dense = case.as_type(torch.float64)
    wanted = dense_loss(**dense.arguments())
    found = case.fused(chunk)
    assert found.count == case.target_N.shape[0]
    for name in ("total", "soft", "hard"):
        value = torch.as_tensor(getattr(found, name), dtype=torch.float64).detach()
        assert error(value, getattr(wanted, name).detach()) <= tolerance, name
    # A factor, as the loop has it: 1 / number of rows.
    (found.total * 0.25).backward()
    (wanted.total * 0.25).backward()
    for name, leaf in case.leaves.items():
        expected = dense.leaves[name].grad
        expected = torch.zeros_like(dense.leaves[name]) if expected is None else expected
        assert leaf.grad is not None and leaf.grad.dtype == dtype
        assert error(leaf.grad, expected) <= tolerance, f"gradient of {name}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize(("vocabulary", "head"), [(3, 2), (11, 4), (257, 12), (5000, 24)])
def test_value_and_gradients_agree_with_the_oracle(
    vocabulary: int, head: int, temperature: float, dtype: torch.dtype
) -> None:
    case = make_case(vocabulary=vocabulary, head=head, seed=vocabulary)
    check(replace(case, mix=replace(BOTH, temperature=temperature)), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_every_divergence_agrees_with_the_oracle(
    kind: Divergence, beta: float, temperature: float, dtype: torch.dtype
) -> None:
    mix = replace(BOTH, temperature=temperature, divergence=kind, beta=beta, least=1e-3 if beta == 0.5 else 1e-30)
    for vocabulary, head in ((3, 2), (11, 11), (257, 12)):
        check(replace(make_case(vocabulary=vocabulary, head=head, seed=vocabulary), mix=mix), dtype=dtype)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("p", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_divergences_are_finite_and_not_negative_at_the_edges(kind: Divergence, p: tuple[float, float]) -> None:
    case = make_case(rows=4, vocabulary=6, head=2)
    with torch.no_grad():
        case.weight_VD[0] = 300 * case.hidden_ND[0]
    labels = labels_of(4, {0: p[0], 3: p[1]})
    for dtype in (torch.float32, torch.float64):
        sure = replace(case, labels=labels, mix=Mix(soft=1.0, hard=0.0, divergence=kind)).as_type(dtype)
        loss = sure.fused()
        loss.total.backward()
        assert loss.soft >= 0
        assert all(leaf.grad is not None and bool(leaf.grad.isfinite().all()) for leaf in sure.leaves.values())


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_every_divergence_is_zero_when_equal(kind: Divergence) -> None:
    case = make_case(rows=6, vocabulary=50)
    with torch.no_grad():
        probs_NK, ids_NK = (case.hidden_ND @ case.weight_VD.T + case.bias_V).softmax(-1).topk(5)
    mix = Mix(soft=1.0, hard=0.0, divergence=kind)
    equal = replace(case, labels=SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK), mix=mix).as_type(torch.float64)
    assert 0 <= equal.fused().soft < 1e-12


def test_limits_of_the_divergences() -> None:
    """Their documented limits, on partitions: beta -> 0 of jsd / beta and of skew_kl is the forward KL, and so on."""
    generator = torch.Generator().manual_seed(0)
    p_CK, q_CK = (torch.randn(20, 5, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(2))

    def value(kind: Divergence, beta: float = 0.5) -> Tensor:
        return divergence(kind, beta, p_CK, q_CK.log())[0]

    near = 1e-7
    assert torch.allclose(value("jsd", near) / near, value("forward_kl"), atol=1e-5)
    assert torch.allclose(value("jsd", 1 - near) / near, value("reverse_kl"), atol=1e-5)
    assert torch.allclose(value("skew_kl", near), value("forward_kl"), atol=1e-5)
    assert torch.allclose(value("skew_reverse_kl", near), value("reverse_kl"), atol=1e-5)
    assert (value("total_variation") <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("vocabulary", [50_000, 300_000])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_large_vocabulary(kind: Divergence, temperature: float, vocabulary: int, dtype: torch.dtype) -> None:
    case = make_case(rows=2, vocabulary=vocabulary, head=12, width=4)
    check(replace(case, mix=replace(BOTH, temperature=temperature, divergence=kind)), dtype=dtype, chunk=1)


@pytest.mark.parametrize("chunk", range(1, 8))
def test_every_chunk_size(chunk: int) -> None:
    check(make_case(rows=7), chunk=chunk)


@pytest.mark.parametrize("labelled", [True, False])
def test_no_rows(labelled: bool) -> None:
    case = make_case(rows=0)
    if not labelled:
        case = replace(case, labels=None, mix=Mix())
    check(case)
    assert case.fused().total.item() == 0 and case.fused().count == 0


@pytest.mark.parametrize("soft", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("hard", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixes(soft: float, hard: float, smoothing: float) -> None:
    case = make_case()
    check(replace(case, mix=Mix(soft=soft, hard=hard, temperature=2.0, smoothing=smoothing)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "projection",
    [
        Projection(scale=0.25),
        Projection(softcap=3.0),
        Projection(n_valid=29),
        Projection(scale=2.0, softcap=5.0, n_valid=29),
    ],
)
def test_projections(projection: Projection, dtype: torch.dtype) -> None:
    case = make_case(valid=29)
    check(replace(case, projection=projection), dtype=dtype)
    check(replace(case, projection=projection, bias_V=None), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_row_weights(dtype: torch.dtype) -> None:
    weight_N = torch.tensor([0.0, 1.0, 2.5, 0.1, 1e-3], dtype=torch.float64)
    check(replace(make_case(), weight_N=weight_N), dtype=dtype)


def labels_of(rows: int, entries: dict[int, float]) -> SparseLabels:
    """The same label in each row; id -1 may stand for an unused entry."""
    ids_K, probs_K = torch.tensor(list(entries)), torch.tensor(list(entries.values()), dtype=torch.float64)
    return SparseLabels(ids_NK=ids_K.repeat(rows, 1), probs_NK=probs_K.repeat(rows, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "entries",
    [
        pytest.param({4: 1.0}, id="one-hot"),
        pytest.param({4: 1.0, 0: 0.0, 9: 0.0}, id="one-hot with zeros"),
        pytest.param({4: 0.0, 9: 0.0}, id="all in the tail"),
        pytest.param({-1: 0.0}, id="nothing but an unused entry"),
        pytest.param({3: 0.5, -1: 0.0, 8: 0.5}, id="head has all the mass"),
        pytest.param(dict.fromkeys(range(10), 0.1), id="uniform over the whole vocabulary"),
        pytest.param({0: 1.0, **dict.fromkeys(range(1, 10), 0.0)}, id="one-hot over the whole vocabulary"),
        pytest.param(dict.fromkeys(range(9), 0.1), id="uniform but for one id"),
    ],
)
def test_extreme_labels(entries: dict[int, float], dtype: torch.dtype) -> None:
    case = replace(make_case(vocabulary=10), labels=labels_of(5, entries))
    check(case, dtype=dtype)
    # What rounding took from a head that covers everything is no tail.
    check(replace(case, labels=labels_of(5, {key: 0.999 * value for key, value in entries.items()})), dtype=dtype)


@pytest.mark.parametrize("lacked", [29, 36, 37, 500])
def test_ids_that_the_student_lacks_fall_into_the_tail(lacked: int) -> None:
    case = make_case(valid=29)
    known = {2: 0.5, 7: 0.2}
    with_lacked = replace(case, labels=labels_of(5, {**known, lacked: 0.25}))
    check(with_lacked)
    without = replace(case, labels=labels_of(5, known))
    assert float(with_lacked.fused().total) == pytest.approx(float(without.fused().total), abs=1e-12)


def test_far_logits_keep_their_loss_and_gradient_in_fp32() -> None:
    """A student that gives a label's id e^-200 is told so, though e^-200 is no fp32 number."""
    case = make_case(rows=1, vocabulary=4, head=1, width=1)
    weight_VD = torch.tensor([[0.0], [-200.0], [-1.0], [-2.0]], dtype=torch.float64)
    case = replace(
        case, hidden_ND=torch.ones(1, 1, dtype=torch.float64), weight_VD=weight_VD, bias_V=None,
        labels=labels_of(1, {1: 0.9}), mix=Mix(soft=1.0, hard=0.0), target_N=torch.tensor([1]),
    )  # fmt: skip
    check(case, dtype=torch.float32)
    assert float(case.as_type(torch.float32).fused().total) > 150


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_zero_when_equal_and_its_gradient_too(temperature: float) -> None:
    case = make_case(rows=6, vocabulary=50)
    with torch.no_grad():
        logits_NV = case.hidden_ND @ case.weight_VD.T + case.bias_V
        probs_NK, ids_NK = (logits_NV / temperature).softmax(-1).topk(5)
    mix = Mix(soft=1.0, hard=0.0, temperature=temperature)
    case = replace(case, labels=SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK), mix=mix).as_type(torch.float64)
    loss = case.fused()
    loss.total.backward()
    assert 0 <= float(loss.total) < 1e-12
    assert case.hidden_ND.grad is not None and float(case.hidden_ND.grad.abs().max()) < 1e-12


@settings(deadline=None, max_examples=50, derandomize=True)
@given(data=st.data())
def test_any_case_agrees_and_is_never_negative(data: st.DataObject) -> None:
    rows, vocabulary = data.draw(st.integers(0, 9)), data.draw(st.integers(3, 60))
    valid = data.draw(st.integers(2, vocabulary))
    case = make_case(
        rows=rows, vocabulary=vocabulary, valid=valid, head=data.draw(st.integers(1, 12)),
        seed=data.draw(st.integers(0, 10_000)), width=data.draw(st.integers(1, 9)),
    )  # fmt: skip
    projection = Projection(
        scale=data.draw(st.sampled_from([1.0, 0.3, 2.0])),
        softcap=data.draw(st.sampled_from([None, 4.0])),
        n_valid=valid if valid < vocabulary else data.draw(st.sampled_from([None, valid])),
    )
    mix = Mix(soft=1.0, hard=0.0, temperature=data.draw(st.sampled_from([0.5, 1.0, 2.0, 4.0])))
    case = replace(case, mix=mix, projection=projection)
    chunk = data.draw(st.integers(1, max(rows, 1)))
    check(case, chunk=chunk)
    assert case.as_type(torch.float32).fused(chunk).soft >= 0


def test_bf16_is_summed_in_fp32() -> None:
    """The sums over 4,000 rows keep bf16's own three digits; summed in bf16 they would stop growing after a few 100."""
    case = make_case(rows=4000, vocabulary=40, width=16, head=5)
    case = replace(case, bias_V=None).as_type(torch.bfloat16)
    total = case.fused(chunk=64).total
    assert total.dtype == torch.float32
    with torch.no_grad():
        alike = replace(case, hidden_ND=case.hidden_ND.double(), weight_VD=case.weight_VD.double())
    alike = alike.as_type(torch.float64)
    wanted = alike.fused(chunk=64).total
    total.backward()
    wanted.backward()
    assert error(total, wanted.detach()) < 5e-3
    assert case.weight_VD.grad is not None and alike.weight_VD.grad is not None
    assert error(case.weight_VD.grad, alike.weight_VD.grad) < TOLERANCE[torch.bfloat16]
    check(replace(make_case(rows=6), bias_V=None), dtype=torch.bfloat16)


def test_gradcheck() -> None:
    case = make_case(rows=3, vocabulary=9, head=3)

    def total(hidden_ND: Tensor, bias_V: Tensor) -> Tensor:
        frozen = case.weight_VD.detach()
        return replace(case, hidden_ND=hidden_ND, weight_VD=frozen, bias_V=bias_V).fused(chunk=2).total

    assert torch.autograd.gradcheck(total, (case.hidden_ND, case.bias_V))


def test_a_second_backward_pass_is_refused_instead_of_wrong() -> None:
    total = make_case().fused().total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_gradients_add_up_over_calls() -> None:
    case, other = make_case(seed=1), make_case(seed=2)
    for each in (case, other):
        replace(each, weight_VD=case.weight_VD).fused().total.backward()
    both = case.weight_VD.grad
    case.weight_VD.grad = None
    parts = []
    for each in (case, other):
        replace(each, weight_VD=case.weight_VD).fused().total.backward()
        parts.append(case.weight_VD.grad)
        case.weight_VD.grad = None
    assert both is not None and error(both, parts[0] + parts[1]) < 1e-12


class Watch(TorchDispatchMode):
    """Counts matrix products and notes the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket.__name__ in ("mm", "addmm", "addmm_", "matmul")
        if isinstance(out, Tensor):
            self.largest = max(self.largest, out.numel())
        return out


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_only_the_loss_is_computed(context: Any) -> None:
    case = make_case()
    wanted = float(case.fused().total)
    with context(), Watch() as watch:
        total = case.fused(chunk=5).total
    assert float(total) == pytest.approx(wanted, abs=1e-12) and not total.requires_grad
    assert watch.products == 1


@pytest.mark.parametrize(
    ("frozen", "products"), [((), 3), (("weight",), 2), (("hidden",), 2), (("hidden", "weight"), 1)]
)
def test_frozen_leaves_skip_their_gradient(frozen: tuple[str, ...], products: int) -> None:
    case = make_case()
    for name in frozen:
        case.leaves[name].requires_grad_(False)
    with Watch() as watch:
        case.fused(chunk=5).total.backward()
    assert watch.products == products
    assert {name for name, leaf in case.leaves.items() if leaf.grad is None} == set(frozen)


def test_no_tensor_of_rows_by_vocabulary_exists() -> None:
    case = make_case(rows=200, vocabulary=500, width=4).as_type(torch.float32)
    with Watch() as watch:
        case.fused(chunk=8).total.backward()
    assert watch.largest <= 8 * 501


def test_soft_loss_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mix.soft is 0.7 but no labels"):
        replace(make_case(), labels=None).fused()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_the_generalised_jsd_is_trl_s_on_dense_labels(beta: float, temperature: float) -> None:
    """Value and gradient to 1e-6. TRL leaves out the factor T^2."""
    gkd = pytest.importorskip("trl.experimental.gkd")
    case, teacher_NV = make_case(rows=6, vocabulary=50), 2 * torch.randn(6, 50, dtype=torch.float64)
    probs_NK, ids_NK = (teacher_NV / temperature).softmax(-1).topk(50)
    mix = Mix(soft=1.0, hard=0.0, temperature=temperature, divergence="jsd", beta=beta)
    dense = replace(case, labels=SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK), mix=mix).as_type(torch.float64)
    found = dense.fused().total / temperature**2
    found.backward()
    hidden_ND = case.hidden_ND.detach().requires_grad_()
    logits_NV = hidden_ND @ case.weight_VD.T + case.bias_V
    wanted = gkd.GKDTrainer.generalized_jsd_loss(
        logits_NV, teacher_NV, beta=beta, temperature=temperature, reduction="sum"
    )
    wanted.backward()
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), abs=1e-6)
    assert dense.hidden_ND.grad is not None and error(dense.hidden_ND.grad, hidden_ND.grad) < 1e-6
