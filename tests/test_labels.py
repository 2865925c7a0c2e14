"""Labels: exact against the dense softmax, aligned with rows, refused where they do not fit, whole after any crash."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from instil.core import publish
from instil.core.errors import LabelError, StorageError
from instil.data.records import MAIN_TASK
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.merge import merge_stores
from instil.labels.mixed import MixedLabels
from instil.labels.shard import Shard
from instil.labels.store import EXAMPLES_A_SHARD, MANIFEST_NAME, LabelStore, StoreManifest
from instil.labels.teacher import Teacher
from instil.labels.writer import Part, write_labels
from instil.models.family import family_of

MADE_FROM = {"teacher": "aaaa", "prompt": "bbbb"}


def make_examples(count: int, *, seed: int = 0, longest: int = 5) -> list[Encoded]:
    """Examples of uneven length, in random order of length."""
    generator = np.random.default_rng(seed)

    def ids() -> tuple[int, ...]:
        return tuple(int(i) for i in generator.integers(3, tiny.VOCABULARY, generator.integers(1, longest + 1)))

    return [Encoded(f"record {number}", ids(), (*ids(), tiny.END)) for number in range(count)]


def make_teacher(name: str) -> Teacher:
    model = tiny.tiny_model(name)
    return Teacher(model=model, family=family_of(model, pad_id=tiny.PAD), batch_tokens=64)


def label(
    folder: Path, examples: Sequence[Encoded], teacher: Teacher | None = None, *, head: int = 6,
    temperatures: tuple[float, ...] = (1.0,), **options: Any,
) -> StoreManifest:  # fmt: skip
    teacher = teacher or make_teacher("llama")
    codec = Codec.top(head, teacher.vocabulary, temperatures)
    return write_labels(teacher, examples, folder, **{"codec": codec, "made_from": MADE_FROM, **options})


def open_store(folder: Path, **options: Any) -> LabelStore:
    return LabelStore(folder, **{"expect": MADE_FROM, "temperature": 1.0, **options})


def dense_probs(teacher: Teacher, example: Encoded, temperature: float) -> Tensor:
    """Softmax over the whole vocabulary at the rows of one example, alone, in fp64."""
    model: Any = teacher.model.double()
    rows = teacher.family.rows(model, teacher.family.collate([example]))
    probs_NV = (rows.head.logits(rows.hidden_ND) / temperature).softmax(-1)
    model.float()
    return probs_NV.detach()


def check_cells(probs_RK: np.ndarray, exact_RK: np.ndarray, unit: int) -> None:
    """Every head probability, as read, is within a unit, and so is their sum."""
    assert (probs_RK >= 0).all() and (probs_RK.sum(-1) <= 1 + 1e-6).all()
    assert (np.abs(probs_RK - exact_RK) * unit <= 1.1).all()
    assert (np.abs(probs_RK.sum(-1) - exact_RK.sum(-1)) * unit <= 0.6).all()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["t5", "llama"])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0])
def test_labels_are_the_teachers_own_distribution(name: str, temperature: float, tmp_path: Path) -> None:
    """Head ids, probabilities and tail of each row are those of the dense softmax; order and batching do not matter."""
    teacher, examples = make_teacher(name), make_examples(20)
    label(tmp_path, examples, teacher, temperatures=(1.5, temperature))
    store = open_store(tmp_path, temperature=temperature)
    chosen = [examples[index] for index in (7, 0, 19, 3, 3)]
    ids_NK, probs_NK = store.read(chosen)
    start = 0
    for example in chosen:
        rows = slice(start, start := start + len(example.target_ids))
        dense_NV = dense_probs(teacher, example, temperature)
        exact_NK = dense_NV.topk(6).values
        assert torch.allclose(dense_NV.gather(1, ids_NK[rows]), exact_NK, rtol=1e-5, atol=1e-9)
        check_cells(probs_NK[rows].double().numpy(), exact_NK.numpy(), store.manifest.codec.unit)
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
    rounding = manifest.codec.head / 2 / manifest.codec.unit
    assert torch.allclose(probs_NK.double().sum(-1), torch.ones(len(probs_NK), dtype=torch.float64), atol=rounding)


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
    manifest = label(tmp_path, examples, Teacher(model=model, family=family_of(model)), head=4)
    ids_NK, _ = open_store(tmp_path).read(examples)
    assert set(ids_NK[:, 0].tolist()) <= {151_644, 151_645}
    assert manifest.codec.id_bits == 18 and manifest.codec.vocabulary == 151_936


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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "damaged; delete"), ("{", "damaged; delete"), ("{}", "damaged; delete"),
        ('{"format": 1}', "format 1, but this instil reads format 3"), ('{"stage": "teach"}', "folder of a stage"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none(content: str, says: str, tmp_path: Path) -> None:
    label(tmp_path, make_examples(2))
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(LabelError, match=says):
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

        def advance(_done: float, remark: str = "", *, limit: int = alive_for) -> None:
            if len(list(pieces.glob("shard-*"))) == limit:
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
        "temperature": {"temperatures": (2.0,)},
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


def test_a_mismatch_names_the_details_that_differ(tmp_path: Path) -> None:
    made = {"weights": "w1", "dtype": "float32", "adapter": "a1"}
    label(tmp_path / "one", make_examples(2), details=made)
    expect = {**MADE_FROM, "teacher": "other"}

    def refusal(now: dict[str, str]) -> str:
        with pytest.raises(LabelError) as caught:
            open_store(tmp_path / "one", expect=expect, details=lambda: now)
        return str(caught.value)

    assert "made from adapter a1, but this run has adapter a2; label again" in refusal(
        {"weights": "w1", "adapter": "a2"}
    )
    assert "made from weights w1, but this run has weights w2, adapter a1, but this run has adapter a2;" in refusal(
        {"weights": "w2", "adapter": "a2"}
    )
    assert f"made from teacher {MADE_FROM['teacher']}, but this run has teacher other;" in refusal({"weights": "w1"})
    # What labels are made from is the same, so no details are asked for.
    open_store(tmp_path / "one", details=lambda: {"weights": "w2"})


def test_parts_of_other_precision_are_not_merged(tmp_path: Path) -> None:
    examples = make_examples(EXAMPLES_A_SHARD + 1, longest=2)
    parts = [tmp_path / "first", tmp_path / "second"]
    for number, (folder, dtype) in enumerate(zip(parts, ("float32", "bfloat16"), strict=True), start=1):
        label(folder, examples, part=Part(number=number, of=2), details={"dtype": dtype})
    with pytest.raises(LabelError, match=r"details is \{'dtype': 'bfloat16'\}, but .*float32"):
        merge_stores(parts, tmp_path / "merged")


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    label(tmp_path, make_examples(2))
    raw = json.loads((tmp_path / MANIFEST_NAME).read_text())
    assert raw["made_from"] == MADE_FROM and raw["codec"]["head"] == 6


# Several hands at one store.


def test_parts_made_apart_are_the_store_made_at_once(tmp_path: Path) -> None:
    examples, teacher = make_examples(3 * EXAMPLES_A_SHARD + 1, longest=2), make_teacher("llama")
    label(tmp_path / "whole", examples, teacher)
    parts = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(parts, start=1):
        label(folder, examples, teacher, part=Part(number=number, of=3))
    with pytest.raises(LabelError, match="part 2/3 of a store"):
        open_store(parts[1])
    with pytest.raises(LabelError, match=r"shard-00000.safetensors, shard-00003.safetensors of 4 shards in none"):
        merge_stores(parts[1:], tmp_path / "torn")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for place in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(LabelError, match="holds other things than a store, which stay; name a new folder"):
            merge_stores(parts, place)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    (tmp_path / "merged").mkdir()
    merge_stores(parts[::-1], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")
    with pytest.raises(LabelError, match="a store already"):
        merge_stores(parts, tmp_path / "merged")


def test_parts_of_different_labellings_and_damaged_ones_are_not_merged(tmp_path: Path) -> None:
    examples, teacher = make_examples(EXAMPLES_A_SHARD + 1, longest=2), make_teacher("llama")
    first, second = tmp_path / "first", tmp_path / "second"
    label(first, examples, teacher, part=Part(number=1, of=2))
    label(second, examples, teacher, part=Part(number=2, of=2), head=3)
    with pytest.raises(LabelError, match=r"codec is .*head=3.* but .*head=6"):
        merge_stores([first, second], tmp_path / "merged")
    label(second, examples, teacher, part=Part(number=2, of=2))
    other = tmp_path / "of fewer"
    label(other, examples[:-1], teacher, part=Part(number=1, of=1))
    with pytest.raises(LabelError, match="whole is"):
        merge_stores([other, second], tmp_path / "merged")
    flip_a_bit(second / "shard-00001.safetensors")
    with pytest.raises(LabelError, match=r"shard-00001.safetensors: damaged"):
        merge_stores([first, second], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_part_without_a_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"part 2/2 has no shard, since the data fill 1; merge the others"):
        label(tmp_path, make_examples(3), part=Part(number=2, of=2))


def test_more_records_take_over_the_shards_of_fewer(tmp_path: Path) -> None:
    examples, teacher = make_examples(2 * EXAMPLES_A_SHARD + 9, longest=2), make_teacher("llama")
    label(tmp_path / "few", examples[: EXAMPLES_A_SHARD + 5], teacher)
    label(tmp_path / "more", examples, teacher, reuse=[tmp_path / "few"])
    label(tmp_path / "fresh", examples, teacher)
    assert files_of(tmp_path / "more") == files_of(tmp_path / "fresh")
    name = "shard-00000.safetensors"
    assert (tmp_path / "more" / name).samefile(tmp_path / "few" / name)
    assert not (tmp_path / "more" / "shard-00001.safetensors").samefile(tmp_path / "few" / "shard-00001.safetensors")


# Drawn labels.


def test_drawn_labels_add_up_and_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    teacher, examples = make_teacher("llama"), make_examples(30)
    codec = Codec.of("small", teacher.vocabulary, (1.0, 2.0))
    label(tmp_path / "a", examples, teacher, codec=codec)
    teacher.batch_tokens = 17
    label(tmp_path / "b", examples, teacher, codec=codec)
    for temperature in (1.0, 2.0):
        one, other = (open_store(tmp_path / name, temperature=temperature).read(examples) for name in "ab")
        assert torch.allclose(one[1].sum(-1), torch.ones(len(one[1])), atol=1e-6)
        rows = [[[token for token in row if token >= 0] for row in ids.tolist()] for ids in (one[0], other[0])]
        assert all(len(row) == len(set(row)) for row in rows[0])
        # Another batch rounds the teacher's logits otherwise, which may move a draw now and then.
        same = sum(a == b for a, b in zip(*rows, strict=True))
        assert same >= 0.95 * len(rows[0])
    heads_NK, head_probs_NK = open_store(tmp_path / "a", drawn=False).read(examples)
    assert heads_NK.shape[1] <= codec.head and (head_probs_NK.sum(-1) <= 1 + 1e-6).all()
    assert (head_probs_NK[heads_NK >= 0] >= codec.threshold - 1 / codec.unit).all()


def test_a_shard_reads_any_examples_in_any_order(tmp_path: Path) -> None:
    teacher, examples = make_teacher("t5"), make_examples(25)
    codec = Codec.of("default", teacher.vocabulary)
    label(tmp_path, examples, teacher, codec=codec)
    shard = Shard(tmp_path / "shard-00000.safetensors", codec)
    one_by_one = [shard.read([number], 0) for number in range(25)]
    order = [7, 24, 0, 7, 3]
    ids_RK, probs_RK = shard.read(order, 0)
    start = 0
    for number in order:
        ids, probs = one_by_one[number]
        rows = slice(start, start := start + len(ids))
        found = [
            sorted(zip(i[i >= 0], p[i >= 0], strict=True)) for i, p in zip(ids_RK[rows], probs_RK[rows], strict=True)
        ]
        assert found == [sorted(zip(i[i >= 0], p[i >= 0], strict=True)) for i, p in zip(ids, probs, strict=True)]
    assert start == len(ids_RK)


# Several teachers


def _wide(store: LabelStore | MixedLabels, examples: Sequence[Encoded]) -> Tensor:
    ids_NK, probs_NK = store.read(examples)
    used = ids_NK[ids_NK >= 0]
    assert len(used) == sum(len(set(row[row >= 0].tolist())) for row in ids_NK), "an id stands in a row once"
    return torch.zeros(len(ids_NK), tiny.PADDED_VOCABULARY + 1).scatter_add_(1, ids_NK + 1, probs_NK)[:, 1:]


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.5, 0.5), (0.2, 0.8)])
def test_a_mixture_is_the_weighted_sum_of_its_teachers(weights: tuple[float, float], tmp_path: Path) -> None:
    examples = make_examples(9)
    label(tmp_path / "one", examples, make_teacher("llama"), codec=Codec.of("default", tiny.PADDED_VOCABULARY))
    label(tmp_path / "two", examples, make_teacher("qwen3"), head=5)
    one, two = open_store(tmp_path / "one"), open_store(tmp_path / "two")
    mixed = MixedLabels((one, two), {MAIN_TASK: weights})
    wanted = weights[0] * _wide(one, examples) + weights[1] * _wide(two, examples)
    torch.testing.assert_close(_wide(mixed, examples), wanted)
    assert examples[0].id in mixed and "nobody" not in mixed


def test_teachers_are_weighed_by_task_and_by_their_loss_on_the_target(tmp_path: Path) -> None:
    examples = [
        replace(example, task="even" if number % 2 else "odd") for number, example in enumerate(make_examples(6))
    ]
    label(tmp_path / "one", examples, make_teacher("llama"), head=200)
    label(tmp_path / "two", examples, make_teacher("qwen3"), head=200)
    one, two = open_store(tmp_path / "one"), open_store(tmp_path / "two")
    weights = {"odd": (0.9, 0.1), "even": (0.3, 0.7)}
    fixed, trusting = (MixedLabels((one, two), weights, by_loss=by_loss) for by_loss in (False, True))
    least = 0.5 / one.manifest.codec.unit
    for example in examples:
        first, second = (_wide(store, [example]) for store in (one, two))
        own, other = weights[example.task]
        torch.testing.assert_close(_wide(fixed, [example]), own * first + other * second)
        rows = torch.arange(len(example.target_ids)), torch.tensor(example.target_ids)
        likely = [each[rows].clamp(min=least).double().log().mean().exp() for each in (first, second)]
        share = float(own * likely[0] / (own * likely[0] + other * likely[1]))
        torch.testing.assert_close(_wide(trusting, [example]), share * first + (1 - share) * second)
    torch.testing.assert_close(_wide(trusting, examples), torch.cat([_wide(trusting, [each]) for each in examples]))


def test_teachers_of_other_vocabularies_are_not_mixed(tmp_path: Path) -> None:
    examples = make_examples(2)
    label(tmp_path / "one", examples)
    label(tmp_path / "two", examples, codec=Codec.top(3, tiny.PADDED_VOCABULARY + 7))
    with pytest.raises(LabelError, match=r"one has 264 ids, .*two has 271 ids"):
        MixedLabels((open_store(tmp_path / "one"), open_store(tmp_path / "two")), {MAIN_TASK: (0.5, 0.5)})
