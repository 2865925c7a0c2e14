"""The codec: bits that come back, draws that are unbiased, masses that add up, for any vocabulary and any teacher."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instil.core.errors import LabelError
from instil.labels.bits import WIDEST, bits_for, bytes_for, pack_bits, unpack_bits
from instil.labels.codec import LARGEST_VOCABULARY, Codec
from instil.labels.draw import pick
from instil.labels.ids import IdStream, common_ids, pack_ids
from instil.labels.shard import Columns, Shard, pack_shard


@settings(deadline=None, max_examples=200, derandomize=True)
@given(data=st.data())
def test_bits_come_back_from_any_place(data: st.DataObject) -> None:
    width = data.draw(st.integers(0, WIDEST))
    values = data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=60))
    packed = pack_bits(values, width)
    assert len(packed) == bytes_for(len(values), width)
    index = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=20)) if values else []
    assert unpack_bits(packed, width, np.array(index, np.int64)).tolist() == [values[i] for i in index]


def test_blocks_of_packed_bits_join() -> None:
    values = np.arange((1 << 20) + 77) % 8191
    assert np.array_equal(unpack_bits(pack_bits(values, 13), 13, np.arange(len(values))), values)


def test_a_number_that_does_not_fit_is_refused() -> None:
    """Elsewhere a 17-bit field wraps on Qwen's vocabulary: 151,645 comes back as 20,573."""
    assert unpack_bits(pack_bits([151_645], 18), 18, np.array([0])).tolist() == [151_645]
    with pytest.raises(ValueError, match="151645 does not fit into 17 bits"):
        pack_bits([151_645], 17)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(data=st.data())
def test_ids_come_back_from_any_examples(data: st.DataObject) -> None:
    vocabulary = data.draw(st.sampled_from([2, 300, 151_936, LARGEST_VOCABULARY]))
    popular = st.integers(0, min(3, vocabulary - 1)) if data.draw(st.booleans()) else st.integers(0, vocabulary - 1)
    examples = data.draw(
        st.lists(st.lists(popular | st.integers(0, vocabulary - 1), max_size=30), min_size=1, max_size=8)
    )
    ids = np.array([token for example in examples for token in example], np.uint32)
    common, id_bits = common_ids(ids, bits_for(vocabulary)), bits_for(vocabulary)
    packed = pack_ids("x", ids, common, id_bits)
    starts = np.concatenate([[0], np.cumsum([len(example) for example in examples])]).astype(np.int64)
    stream = IdStream("x", packed, common, id_bits, starts)
    chosen = data.draw(st.lists(st.integers(0, len(examples) - 1), max_size=5))
    found = stream.read(packed, np.array(chosen, np.int64))
    assert found.tolist() == [token for number in chosen for token in examples[number]]


def test_common_ids_pay_for_themselves() -> None:
    generator = np.random.default_rng(0)
    ids = (generator.zipf(1.3, 40_000) % 49_152).astype(np.uint32)
    common = common_ids(ids, 16)
    size = sum(array.nbytes for array in pack_ids("x", ids, common, 16).values()) + 2 * len(common)
    assert 0 < len(common) < 5000 and size < 0.75 * 2 * len(ids)
    assert len(common_ids(np.arange(1000, dtype=np.uint32), 16)) == 0


@pytest.mark.parametrize(("values", "bits"), [(1, 0), (2, 1), (3, 2), (259, 9), (1 << 16, 16), (151_936, 18)])
def test_bits_for(values: int, bits: int) -> None:
    assert bits_for(values) == bits


def picked(logits_CV: Tensor, codec: Codec, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Ids and probabilities of the rows, through pick, the packed shard and back."""
    starts = torch.rand(len(logits_CV), dtype=torch.float64) if starts is None else starts
    found = pick(logits_CV.clone(), codec, starts)
    used_CK, used_CM = found.head_CK >= 0, found.drawn_CM >= 0
    columns = Columns(
        heads_R=used_CK.sum(-1).numpy().astype(np.uint32), draws_R=used_CM.sum(-1).numpy().astype(np.uint32),
        ids_H=found.head_CK[used_CK].numpy().astype(np.uint32),
        masses_H=found.masses_CK[used_CK].numpy().astype(np.uint32),
        drawn_S=found.drawn_CM[used_CM].numpy().astype(np.uint32),
    )  # fmt: skip
    rows = len(logits_CV)
    content = pack_shard(codec, ["only"], [rows], ([1], [2]), [columns], plan="p", sums={"rows": rows})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.safetensors"
        path.write_bytes(content)
        ids, probs = Shard(path, codec).read([0], 0)
    return torch.from_numpy(ids), torch.from_numpy(probs)


@pytest.mark.parametrize("codec", [Codec.of("default", 300), Codec.top(4, 300)], ids=["drawn", "top"])
@pytest.mark.parametrize("heads", [(0, 2, 0, 0, 1, 0), (0, 0, 0)], ids=["some", "none"])
def test_rows_without_entries_come_back_empty(codec: Codec, heads: tuple[int, ...], tmp_path: Path) -> None:
    """A teacher that listed nothing at a row: neither a head nor a draw, between rows that have some and alone."""
    counts_R = np.array(heads, np.uint32)
    columns = Columns(
        heads_R=counts_R, draws_R=counts_R * codec.draws, ids_H=np.arange(5, 5 + counts_R.sum(), dtype=np.uint32),
        masses_H=np.full(counts_R.sum(), codec.unit // 4, np.uint32),
        drawn_S=np.arange(50, 50 + counts_R.sum() * codec.draws, dtype=np.uint32),
    )  # fmt: skip
    path = tmp_path / "shard.safetensors"
    rows_E = [1, len(heads) - 1]
    path.write_bytes(pack_shard(codec, ["a", "b"], rows_E, ([0, 0], [0, 0]), [columns], plan="", sums={}))
    shard = Shard(path, codec)
    for drawn in (True, False):
        ids_RK, probs_RK = shard.read([0, 1], 0, drawn=drawn)
        places = 1 + (codec.draws and drawn)
        assert ((ids_RK >= 0).sum(-1) == places * counts_R).all() and (ids_RK[counts_R == 0] == -1).all()
        assert (probs_RK[counts_R == 0] == 0).all() and (probs_RK[counts_R > 0].sum(-1) > 0).all()
        assert [len(shard.read([number], 0, drawn=drawn)[0]) for number in (0, 1)] == rows_E


def dense(ids_CK: Tensor, probs_CK: Tensor, vocabulary: int) -> Tensor:
    """The estimate of the distribution that a label is."""
    spare = torch.zeros(len(ids_CK), vocabulary + 1, dtype=torch.float64)
    return spare.scatter_add_(1, torch.where(ids_CK < 0, vocabulary, ids_CK), probs_CK.double())[:, :-1]


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    vocabulary=st.integers(2, 400) | st.sampled_from([49_152, 151_936, 262_144, LARGEST_VOCABULARY]),
    detail=st.sampled_from(["small", "default", "fine"]),
    shape=st.sampled_from(["random", "sharp", "flat", "ties", "one-hot"]),
    seed=st.integers(0, 99),
)
def test_any_row_of_any_vocabulary_round_trips(vocabulary: int, detail: str, shape: str, seed: int) -> None:
    """Heads are the probabilities from the threshold up, to a unit; each row adds up to 1; no id stands twice."""
    generator = torch.Generator().manual_seed(seed)
    rows = 3 if vocabulary < 1000 else 1
    logits_CV = torch.randn(rows, vocabulary, generator=generator) * {"sharp": 20, "random": 3}.get(shape, 0)
    if shape == "ties":
        logits_CV = logits_CV.round()
    if shape == "one-hot":
        logits_CV[:, seed % vocabulary] = 200
    codec = Codec.of(detail, vocabulary)  # type: ignore[arg-type]
    exact_CV = logits_CV.double().softmax(-1)
    ids_CK, probs_CK = picked(logits_CV, codec)
    assert int(ids_CK.max()) < vocabulary
    assert (probs_CK.sum(-1) <= 1 + 1e-6).all()
    for row in range(rows):
        used = ids_CK[row][ids_CK[row] >= 0].tolist()
        assert len(used) == len(set(used))
        above = set((exact_CV[row] >= codec.threshold * (1 + 1e-5)).nonzero()[:, 0].tolist())
        assert above <= set(used)
        for token in above:
            found = float(probs_CK[row][ids_CK[row] == token])
            assert abs(found - float(exact_CV[row, token])) * codec.unit <= 1.01


@pytest.mark.parametrize("detail", ["small", "default", "fine"])
def test_draws_are_unbiased(detail: str) -> None:
    """The mean of many draws of one row is the row: every id's error is within five of its standard errors."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, draws = 50, 40_000
    logits_V = 1.5 * torch.randn(vocabulary, generator=generator)
    codec = Codec.of(detail, vocabulary)  # type: ignore[arg-type]
    starts_C = torch.rand(draws, generator=generator, dtype=torch.float64)
    found = pick(logits_V.repeat(draws, 1), codec, starts_C)
    masses_CK = found.masses_CK.double() / codec.unit
    each_C1 = ((1 - masses_CK.sum(-1)) / (found.drawn_CM >= 0).sum(-1).clamp_min(1))[:, None]
    ids_CK = torch.cat([found.head_CK, found.drawn_CM], -1)
    probs_CK = torch.cat([masses_CK, each_C1.expand(found.drawn_CM.shape)], -1)
    estimate_CV = dense(ids_CK, probs_CK, vocabulary)
    exact_V = logits_V.double().softmax(-1)
    allowed_V = 5 * estimate_CV.std(0) / draws**0.5 + 1.5 / codec.unit
    assert ((estimate_CV.mean(0) - exact_V).abs() <= allowed_V).all()


def test_a_finer_threshold_is_nearer() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_CV = 2 * torch.randn(300, 2000, generator=generator)
    exact_CV = logits_CV.double().softmax(-1)
    errors = []
    for detail in ("small", "default", "fine"):
        estimate_CV = dense(*picked(logits_CV, Codec.of(detail, 2000)), 2000)  # type: ignore[arg-type]
        errors.append(float((estimate_CV - exact_CV).square().sum()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vocabulary": LARGEST_VOCABULARY + 1, "head": 2}, "vocabulary"),
        ({"vocabulary": 9, "head": 2, "draws": True}, "threshold above 0"),
        ({"vocabulary": 9, "head": 2, "temperatures": ()}, "temperatures"),
    ],
)
def test_codecs_that_cannot_be(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Codec(**options)  # type: ignore[arg-type]


def test_a_temperature_that_is_not_recorded_is_refused() -> None:
    with pytest.raises(LabelError, match="recorded at temperature 1, 2, but the recipe asks for 4"):
        Codec.top(4, 100, (1.0, 2.0)).at(4.0)


def test_decoding_is_vectorised(tmp_path: Path) -> None:
    """Twelve entries a row; a loop over rows in Python would be a hundred times slower than this allows."""
    rows, codec = 40_000, Codec(vocabulary=49_152, head=12, threshold=0.05, draws=True, digits=11)
    generator = np.random.default_rng(0)
    columns = Columns(
        heads_R=np.full(rows, 6, np.uint32), draws_R=np.full(rows, 6, np.uint32),
        ids_H=generator.integers(0, 49_152, 6 * rows, np.uint32), masses_H=np.full(6 * rows, 300, np.uint32),
        drawn_S=generator.integers(0, 49_152, 6 * rows, np.uint32),
    )  # fmt: skip
    path = tmp_path / "shard.safetensors"
    path.write_bytes(pack_shard(codec, ["a"], [rows], ([0], [0]), [columns], plan="", sums={}))
    shard = Shard(path, codec)
    started = time.process_time()
    ids_RK, probs_RK = shard.read([0], 0)
    assert time.process_time() - started < 2
    assert np.array_equal(ids_RK[:, :6].ravel(), columns.ids_H) and ids_RK.shape == (rows, 12)
    assert np.allclose(probs_RK.sum(-1), 1)
