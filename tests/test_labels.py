"""Labels: exact against the dense softmax, aligned with rows, refused where they do not fit, whole after any crash."""

from __future__ import annotations

import json
import resource
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
from instil.core import publish
from instil.core.errors import LabelError, StorageError
from instil.data.tokens import Encoded
from instil.labels.codec import Shard, hash_prompt, id_type, pack, restore_probs, unpack
from instil.labels.store import MANIFEST_NAME, LabelStore, StoreManifest
from instil.labels.writer import EXAMPLES_A_SHARD, Teacher, write_labels
from instil.models.family import family_of

MADE_FROM = {"teacher": "aaaa", "prompt": "bbbb"}
# A number has float16's 11 bits, and below 6e-5 its smallest step.
RELATIVE, ABSOLUTE = 2**-11, 2**-25


def make_examples(count: int, *, seed: int = 0, longest: int = 5) -> list[Encoded]:
    """Examples of uneven length, in random order of length."""
    generator = np.random.default_rng(seed)

    def ids() -> tuple[int, ...]:
        return tuple(int(i) for i in generator.integers(3, tiny.VOCABULARY, generator.integers(1, longest + 1)))

    return [Encoded(f"record {number}", ids(), (*ids(), tiny.END)) for number in range(count)]


def make_teacher(name: str) -> Teacher:
    model = tiny.tiny_model(name)
    return Teacher(model=model, family=family_of(model, pad_id=tiny.PAD), batch_tokens=64)


def label(folder: Path, examples: Sequence[Encoded], teacher: Teacher | None = None, **options: Any) -> StoreManifest:
    settings_ = {"head": 6, "temperature": 1.0, "made_from": MADE_FROM, **options}
    return write_labels(teacher or make_teacher("llama"), examples, folder, **settings_)


def open_store(folder: Path, **options: Any) -> LabelStore:
    return LabelStore(folder, **{"expect": MADE_FROM, "temperature": 1.0, **options})


def dense_probs(teacher: Teacher, example: Encoded, temperature: float) -> Tensor:
    """Softmax over the whole vocabulary at the rows of one example, alone, in fp64."""
    model: Any = teacher.model.double()
    rows = teacher.family.rows(model, teacher.family.collate([example]))
    probs_NV = (rows.head.logits(rows.hidden_ND) / temperature).softmax(-1)
    model.float()
    return probs_NV.detach()


def check_cells(probs_RK: np.ndarray, exact_RK: np.ndarray) -> None:
    """Every head probability and the tail, as read, has float16's digits; a row's largest has the others' errors."""
    assert (probs_RK >= 0).all() and (probs_RK.sum(-1) <= 1 + 1e-6).all()
    cells_RC = np.concatenate([probs_RK, 1 - probs_RK.sum(-1, keepdims=True)], axis=1)
    exact_RC = np.concatenate([exact_RK, 1 - exact_RK.sum(-1, keepdims=True)], axis=1)
    error_RC, allowed_RC = np.abs(cells_RC - exact_RC), RELATIVE * exact_RC + ABSOLUTE + 1e-6
    # Of nearly equal ones either may be the largest once they are rounded.
    largest_RC = exact_RC > 0.999 * exact_RC.max(-1, keepdims=True)
    assert (error_RC <= allowed_RC)[~largest_RC].all()
    assert (error_RC <= allowed_RC.sum(-1, keepdims=True)).all()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["t5", "llama"])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0])
def test_labels_are_the_teachers_own_distribution(name: str, temperature: float, tmp_path: Path) -> None:
    """Head ids, probabilities and tail of each row are those of the dense softmax; order and batching do not matter."""
    teacher, examples = make_teacher(name), make_examples(20)
    label(tmp_path, examples, teacher, temperature=temperature)
    store = open_store(tmp_path, temperature=temperature)
    chosen = [examples[index] for index in (7, 0, 19, 3, 3)]
    ids_NK, probs_NK = store.read(chosen)
    start = 0
    for example in chosen:
        rows = slice(start, start := start + len(example.target_ids))
        dense_NV = dense_probs(teacher, example, temperature)
        exact_NK = dense_NV.topk(6).values
        assert torch.allclose(dense_NV.gather(1, ids_NK[rows]), exact_NK, rtol=1e-5, atol=1e-9)
        check_cells(probs_NK[rows].double().numpy(), exact_NK.numpy())
    assert start == len(ids_NK) == len(probs_NK)


def test_store_counts_and_measures(tmp_path: Path) -> None:
    examples = make_examples(12)
    manifest = label(tmp_path, examples)
    store = open_store(tmp_path)
    assert len(store) == 12 and "record 3" in store and "record 12" not in store
    assert manifest == store.manifest
    assert manifest.measured["rows"] == sum(len(example.target_ids) for example in examples)
    assert 0 < manifest.measured["head_mass"] <= 1
    assert 0 <= manifest.measured["top1_agreement"] <= manifest.measured["target_in_head"] <= 1


def test_head_is_capped_by_the_vocabulary(tmp_path: Path) -> None:
    examples = make_examples(3)
    manifest = label(tmp_path, examples, head=10_000)
    assert manifest.codec.head == tiny.PADDED_VOCABULARY
    _, probs_NK = open_store(tmp_path).read(examples)
    assert torch.allclose(probs_NK.double().sum(-1), torch.ones(len(probs_NK), dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize(("vocabulary", "type_"), [(259, np.uint16), (1 << 16, np.uint16), (151_936, np.uint32)])
def test_id_type(vocabulary: int, type_: type) -> None:
    assert id_type(vocabulary) is type_


def test_qwens_vocabulary_survives(tmp_path: Path) -> None:
    """A 17-bit id field would wrap 151,645 to 20,573."""
    torch.manual_seed(0)
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=151_936, **small)).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.02)
        model.lm_head.weight[151_644] = -(direction := torch.full((8,), 50.0))
        model.lm_head.weight[151_645] = direction
    examples = [Encoded("one", (5, 6), (151_645, 151_935, 7)), Encoded("other", (8, 151_643), (9, 151_645))]
    label(tmp_path, examples, Teacher(model=model, family=family_of(model)), head=4)
    ids_NK, _ = open_store(tmp_path).read(examples)
    assert set(ids_NK[:, 0].tolist()) <= {151_644, 151_645}
    assert unpack(tmp_path / "shard-00000.safetensors").target_R.tolist() == [151_645, 151_935, 7, 9, 151_645]


@pytest.mark.parametrize(
    ("options", "both"),
    [
        ({"expect": {**MADE_FROM, "teacher": "cccc"}}, ("aaaa", "cccc")),
        ({"expect": {**MADE_FROM, "prompt": "dddd"}}, ("bbbb", "dddd")),
        ({"expect": {**MADE_FROM, "tokenizer": "eeee"}}, ("None", "eeee")),
        ({"temperature": 2.0}, ("temperature 1", "asks for 2")),
    ],
)
def test_labels_of_another_run_are_refused_with_both_values(
    options: dict[str, Any], both: tuple[str, str], tmp_path: Path
) -> None:
    label(tmp_path, make_examples(2))
    with pytest.raises(LabelError) as caught:
        open_store(tmp_path, **options)
    assert all(value in str(caught.value) for value in both)


def test_examples_that_were_not_labelled_are_refused(tmp_path: Path) -> None:
    examples = make_examples(3)
    label(tmp_path, examples)
    store, one = open_store(tmp_path), examples[1]
    with pytest.raises(LabelError, match="no labels for record 'new'"):
        store.read([replace(one, id="new")])
    with pytest.raises(LabelError, match="another target"):
        store.read([replace(one, target_ids=(*one.target_ids[:-1], 200))])
    with pytest.raises(LabelError, match="another target"):
        store.read([replace(one, target_ids=one.target_ids[:-1])])
    with pytest.raises(LabelError, match="another prompt"):
        store.read([replace(one, prompt_ids=(*one.prompt_ids, 9))])


def test_nothing_to_label(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="nothing to label"):
        label(tmp_path, [])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half, Path.unlink])
def test_damage_is_named_and_only_that_shard_is_made_again(damage: Any, tmp_path: Path) -> None:
    examples = make_examples(EXAMPLES_A_SHARD + 40, longest=2)
    label(tmp_path, examples)
    sound, times = files_of(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*")}
    hurt = tmp_path / "shard-00001.safetensors"
    damage(hurt)
    with pytest.raises(LabelError, match=r"shard-00001.safetensors.*run instil label again") as caught:
        open_store(tmp_path)
    assert "\n" not in str(caught.value)
    label(tmp_path, examples)
    assert files_of(tmp_path) == sound
    assert {path.name for path, time in times.items() if path.stat().st_mtime_ns != time} == {hurt.name}


@pytest.mark.parametrize("content", ["", "{", '{"format": 1}'])
def test_damaged_or_missing_manifest(content: str, tmp_path: Path) -> None:
    label(tmp_path, make_examples(2))
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(LabelError, match="damaged"):
        open_store(tmp_path)
    (tmp_path / MANIFEST_NAME).unlink()
    with pytest.raises(LabelError, match="labelling has not ended"):
        open_store(tmp_path)


class KilledError(Exception):
    """Stands for the kill."""


def test_a_store_made_in_pieces_is_the_store_made_at_once(tmp_path: Path) -> None:
    """Labelling that dies after each shard and goes on gives the same bytes, and never labels a shard twice."""
    examples = make_examples(3 * EXAMPLES_A_SHARD + 1, longest=2)
    teacher = make_teacher("llama")
    label(tmp_path / "whole", examples, teacher)
    alive_for, pieces = 1, tmp_path / "pieces"
    for alive_for in range(1, 5):
        heard: list[float] = []

        def advance(done: float, remark: str = "", *, limit: int = alive_for, heard: list[float] = heard) -> None:
            heard.append(done)
            if len(heard) == limit:
                raise KilledError(remark)

        before = {path: path.stat().st_mtime_ns for path in pieces.glob("shard-*")}
        with pytest.raises(KilledError):
            label(pieces, examples, teacher, advance=advance)
        assert len(list(pieces.glob("shard-*"))) == alive_for
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
        assert not (pieces / MANIFEST_NAME).exists()
    # What a killed write leaves aside is swept.
    (pieces / f"{publish.ASIDE_PREFIX}shard-00009").write_bytes(b"torn")
    label(pieces, examples, teacher)
    assert files_of(pieces) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("change", ["teacher", "head", "temperature", "target", "prompt", "order"])
def test_shards_of_another_plan_are_not_mixed_in(change: str, tmp_path: Path) -> None:
    examples = make_examples(EXAMPLES_A_SHARD + 3, longest=2)
    label(tmp_path / "mixed", examples)
    options: dict[str, Any] = {
        "teacher": {"made_from": {**MADE_FROM, "teacher": "other"}},
        "head": {"head": 3},
        "temperature": {"temperature": 2.0},
    }.get(change, {})
    if change == "target":
        examples[0] = replace(examples[0], target_ids=(99, tiny.END))
    if change == "prompt":
        examples[0] = replace(examples[0], prompt_ids=(99, 98))
    if change == "order":
        examples = examples[::-1]
    teacher = make_teacher("qwen3" if change == "teacher" else "llama")
    label(tmp_path / "mixed", examples, teacher, **options)
    label(tmp_path / "fresh", examples, teacher, **options)
    assert files_of(tmp_path / "mixed") == files_of(tmp_path / "fresh")


def test_an_old_manifest_never_stands_over_new_shards(tmp_path: Path) -> None:
    examples = make_examples(4)
    label(tmp_path, examples)

    def die(done: float, remark: str = "") -> None:
        raise KilledError

    with pytest.raises(KilledError):
        label(tmp_path, examples, head=2, advance=die)
    with pytest.raises(LabelError, match="labelling has not ended"):
        open_store(tmp_path)


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    teacher, examples = make_teacher("llama"), make_examples(40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match=r"shard-00000\.safetensors: failed while writing") as caught:
            label(tmp_path, examples, teacher)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*shard*")) and not (tmp_path / MANIFEST_NAME).exists()
    label(tmp_path, examples, teacher)
    assert len(open_store(tmp_path)) == 40


def test_the_teacher_is_as_before(tmp_path: Path) -> None:
    teacher = make_teacher("t5")
    teacher.model.train()
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    label(tmp_path, make_examples(3), teacher)
    assert teacher.model.training and all(parameter.requires_grad for parameter in teacher.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.model.state_dict().items())


def make_shard(logits_RV: np.ndarray, head: int, vocabulary: int, ids: tuple[str, ...]) -> tuple[Shard, np.ndarray]:
    """A shard of one row an example, and its exact probabilities in fp64, falling."""
    exact_RV = np.exp(logits_RV - logits_RV.max(-1, keepdims=True)).astype(np.float64)
    exact_RV = -np.sort(-exact_RV / exact_RV.sum(-1, keepdims=True), axis=-1)
    rows, kind = len(exact_RV), id_type(vocabulary)
    generator = np.random.default_rng(0)
    shard = Shard(
        ids=ids,
        head_ids_RK=generator.integers(0, vocabulary, (rows, head)).astype(kind),
        head_probs_RK=exact_RV[:, :head].astype(np.float16),
        tail_R=exact_RV[:, head:].sum(-1).astype(np.float16),
        target_R=generator.integers(0, vocabulary, rows).astype(kind),
        starts_E=np.arange(rows, dtype=np.int64),
        prompts_E=np.array([hash_prompt([row]) for row in range(rows)], np.uint64),
    )
    return shard, exact_RV


@settings(deadline=None, max_examples=60, derandomize=True)
@given(data=st.data())
def test_codec_round_trip(data: st.DataObject) -> None:
    """Arrays and record ids come back as they are; probabilities add up and keep their digits, sharp or flat."""
    names = data.draw(st.lists(st.text(max_size=8), min_size=1, max_size=6, unique=True))
    width = data.draw(st.integers(2, 20))
    head = data.draw(st.integers(1, width))
    vocabulary = data.draw(st.sampled_from([3, 259, 1 << 16, (1 << 16) + 1, 151_936, 1 << 20]))
    sharpness = data.draw(st.sampled_from([0.0, 1.0, 5.0, 30.0]))
    logits_RV = sharpness * np.random.default_rng(data.draw(st.integers(0, 999))).normal(size=(len(names), width))
    shard, exact_RV = make_shard(logits_RV, head, vocabulary, tuple(names))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.safetensors"
        path.write_bytes(pack(shard))
        back = unpack(path)
    assert back.ids == shard.ids
    for name in ("head_ids_RK", "head_probs_RK", "tail_R", "target_R", "starts_E", "prompts_E"):
        found, wanted = getattr(back, name), getattr(shard, name)
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted), name
    probs_RK = restore_probs(back.head_probs_RK, back.tail_R).astype(np.float64)
    check_cells(probs_RK, exact_RV[:, :head])


def test_rows_of_a_shard() -> None:
    shard, _ = make_shard(np.zeros((3, 4)), 2, 9, ("a", "b", "c"))
    shard = replace(shard, ids=("a", "b"), starts_E=np.array([0, 2], np.int64))
    assert [shard.rows_of(0), shard.rows_of(1)] == [slice(0, 2), slice(2, 3)]


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    label(tmp_path, make_examples(2))
    raw = json.loads((tmp_path / MANIFEST_NAME).read_text())
    assert raw["made_from"] == MADE_FROM and raw["codec"]["head"] == 6
