"""Several teachers in memory: each labels once, one after the other, and all read together what the student writes."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn.modules.module import register_module_forward_pre_hook

import tiny
from command import instil
from instil.data.records import MAIN_TASK
from instil.labels.mixed import MixedLabels
from instil.labels.store import LabelStore
from instil.models.loading import load_reader
from instil.run.pipeline import Pipeline
from instil.run.recipe_file import read_recipe
from instil.run.stages.label import Labels
from instil.run.stages.teach import encode
from project import finished, models_folder, project

PLAIN: dict[str, Any] = {
    "teacher": {"teach": None}, "labels": {"targets": "gold", "temperatures": [1.0]}, "distil": {"temperature": 1.0},
}  # fmt: skip
WRITES = {"temperature": 1.0, "on_policy": {"share": 1}, "without_teacher": False}


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of the same tokens whose head is padded further, as larger models of a family have it."""
    folder = tmp_path_factory.mktemp("padded")
    config = hf.LlamaConfig(**{**tiny._LLAMA, "vocab_size": tiny.PADDED_VOCABULARY + 8})
    torch.manual_seed(5)
    tiny.scatter(hf.LlamaForCausalLM(config)).save_pretrained(folder)
    tiny.tiny_tokenizer("decoder-only").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that knows one token more."""
    folder = tmp_path_factory.mktemp("foreign")
    tokenizer = tiny.tiny_tokenizer("decoder-only")
    tokenizer.add_tokens(["house"])
    for each in (tiny.tiny_model("qwen3"), tokenizer):
        each.save_pretrained(folder)
    return folder


def others(*teachers: tuple[Path, Any]) -> str:
    entries = [f"{{teacher: {{model: '{model}'}}, weight: {weight}}}" for model, weight in teachers]
    return f"labels.others=[{', '.join(entries)}]"


def labels(folder: Path, *changes: str) -> Labels:
    return Pipeline(read_recipe(folder / "recipe.yaml", changes), folder).labels


@pytest.mark.timeout(300)
@pytest.mark.parametrize("targets", ["gold", "teacher"])
def test_each_teacher_labels_what_the_first_has_labelled(targets: str, padded: Path, tmp_path: Path) -> None:
    """The mixture is that of the stores that each would write by a recipe of its own, for the first one's targets."""
    folder = project(tmp_path / "p", "llama", pairs=40, **PLAIN)
    qwen, wanted = models_folder() / "qwen3", f"labels.targets={targets}"
    own = labels(folder, wanted)
    texts = "" if targets == "gold" else own.artifact.folder / "targets.jsonl"  # type: ignore[union-attr]
    of_them = f"labels.completions={texts}" if texts else "labels.targets=gold"
    alone = [labels(folder, f"name=own{n}", f"teacher.model={m}", of_them) for n, m in enumerate((qwen, padded))]
    stores = [own.store, *(each.store for each in alone)]
    assert all(isinstance(store, LabelStore) for store in stores)
    recipe = read_recipe(folder / "recipe.yaml")
    examples, _ = encode(recipe, load_reader(str(models_folder() / "llama")), own.records, "labels")
    for trust in ("fixed", "by-loss"):
        found = labels(folder, wanted, others((qwen, 0.5), (padded, 0.2)), f"labels.trust={trust}")
        assert isinstance(found.store, MixedLabels) and len(found.others) == 2
        assert [each.id for each in found.records] == [each.id for each in own.records]
        plain = MixedLabels(stores, {MAIN_TASK: (0.3, 0.5, 0.2)}, by_loss=trust == "by-loss", alike=stores)  # type: ignore[arg-type]
        for told, expected in zip(found.store.read(examples), plain.read(examples), strict=True):
            torch.testing.assert_close(told, expected)


def test_teachers_are_in_memory_one_after_the_other(padded: Path, tmp_path: Path) -> None:
    folder = project(tmp_path / "p", "llama", pairs=20, **PLAIN)
    change = others((models_folder() / "qwen3", 0.5), (padded, 0.2))
    pipeline = Pipeline(read_recipe(folder / "recipe.yaml", (change,)), folder)
    models: dict[int, Any] = {}
    most, turns = 0, []

    def look(module: Any, _: Any) -> None:
        nonlocal most
        if isinstance(module, hf.PreTrainedModel) and hasattr(module, "layers"):
            models.setdefault(id(module), weakref.ref(module))
            most = max(most, sum(each() is not None for each in models.values()))
            turns.append(type(module).__name__)

    hook = register_module_forward_pre_hook(look)
    try:
        assert pipeline.labels.store is not None
    finally:
        hook.remove()
    assert most == 1 and "Qwen3Model" in turns and turns[0] == turns[-1] == "LlamaModel"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A project with a further teacher's labels made."""
    folder = project(tmp_path / "p", "llama", pairs=20, **PLAIN)
    assert labels(folder, others((models_folder() / "qwen3", 0.5))).store is not None
    return folder


def test_a_teachers_labels_are_reused_and_mended(labelled: Path) -> None:
    """Another weight, and another teacher beside them, leave them as they are; a damaged shard is made again."""
    (made,) = labelled.glob("runs/*/label-other-*")
    found = labels(labelled, others((models_folder() / "qwen3", 0.2)), "labels.trust=by-loss")
    assert [each.reused for each in found.others] == [True] and found.others[0].folder == made
    shard = next(made.glob("store/shard-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9] + b"x" * 9)
    found = labels(labelled, others((models_folder() / "qwen3", 0.5)))
    assert [each.reused for each in found.others] == [False]
    assert found.artifact is not None and found.artifact.reused and shard.read_bytes() == whole
    fewer = labels(labelled, others((models_folder() / "qwen3", 0.5)), "labels.records=5")
    assert fewer.others[0].folder != made and len(fewer.records) == 5


@pytest.mark.timeout(300)
def test_a_teacher_beside_a_store_that_was_made_before(labelled: Path, padded: Path) -> None:
    """Named stores and teachers stand in one list, and the recipe's own labels may be a store too."""
    own, other = finished(labelled, "label"), finished(labelled, "label-other")
    mixed = f"[{{store: '{other}', weight: 0.3}}, {{teacher: {{model: '{padded}'}}, weight: {{main: 0.3}}}}]"
    changes = [f"labels.others={mixed}", f"labels.store={own}"]
    options = [part for each in changes for part in ("--set", each)]
    ended = instil("distil", "recipe.yaml", *options, cwd=labelled)
    assert ended.code == 0 and "label-other: making" in ended.err, ended.err
    card = (finished(labelled, "distil") / "model" / "README.md").read_text(encoding="utf8")
    assert f"| Teacher beside it | {padded.name}; main 0.3, fixed |" in card


@pytest.mark.timeout(300)
def test_all_teachers_read_what_the_student_writes(padded: Path, tmp_path: Path) -> None:
    """With fixed, by-loss and per-task weights: each is a student of its own, and the same recipe finds it again."""
    also = {"also": [{"name": "titles", "prefix": "title: "}]}
    folder = project(tmp_path / "p", "llama", pairs=40, **{**PLAIN, "distil": WRITES}, data=also)
    qwen, found = models_folder() / "qwen3", {}
    for name, change in {
        "alone": ("labels.others=[]",),
        "fixed": (others((qwen, 0.5), (padded, 0.2)),),
        "by-loss": (others((qwen, 0.5), (padded, 0.2)), "labels.trust=by-loss"),
        "by task": (others((qwen, "{main: 0.5}"), (padded, "{titles: 0.8}")),),
        "again": (others((qwen, 0.5), (padded, 0.2)),),
    }.items():
        options = [part for each in change for part in ("--set", each)]
        ended = instil("distil", "recipe.yaml", "--json", *options, cwd=folder)
        assert ended.code == 0, ended.err
        found[name] = json.loads(ended.out)
        assert ("3 teachers in memory read" in ended.err) == (name not in ("alone", "again"))
    assert found["again"]["fingerprint"] == found["fixed"]["fingerprint"]
    losses = {name: each["result"]["soft"] for name, each in found.items()}
    assert len(set(losses.values())) == 4, losses
    assert not list(folder.glob("runs/*/label*/store")), "nobody reads stored labels"


@pytest.mark.timeout(300)
def test_stored_and_live_labels_are_mixed_in_one_training(tmp_path: Path) -> None:
    distil = WRITES | {"on_policy": {"share": 0.5}}
    folder = project(tmp_path / "p", "llama", pairs=40, **{**PLAIN, "distil": distil})
    ended = instil("distil", "recipe.yaml", "--set", others((models_folder() / "qwen3", 0.5)), cwd=folder)
    assert ended.code == 0 and "2 teachers in memory read" in ended.err, ended.err
    assert finished(folder, "label-other").is_dir()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("labels.others=[{teacher: {model: x}, store: y, weight: 0.5}]",), "store and teacher are both set"),
        (("labels.others=[{weight: 0.5}]",), "neither store nor teacher is set"),
        (("labels.others=[{teacher: {model: x, adaptr: y}, weight: 0.5}]",), "did you mean 'adapter'"),
        (
            ("labels.others=[{teacher: {model: x, served: {url: http://localhost/v1}}, weight: 0.5}]",),
            "a served teacher is not loaded beside another; label with it in a recipe of its own and name that store",
        ),
        (
            ("labels.others=[{teacher: {model: x, teach: {loop: {budget: {steps: 1}}}}, weight: 0.5}]",),
            "other teachers are taken as they are; teach it first and name its model or adapter",
        ),
        (
            ("labels.others=[{store: y, weight: 0.5}]", "distil.on_policy={}"),
            "labels.others has the store y, which cannot label what the student writes (distil.on_policy); name its",
        ),
        (
            (
                "labels.others=[{teacher: {model: x}, weight: 0.5}]", "distil.on_policy={}",
                "teacher.served={url: http://localhost/v1}",
            ),
            "a served teacher tells its first ids alone, which are not mixed",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["check", "distil"])
def test_what_cannot_be_mixed_is_one_line(command: str, changes: tuple[str, ...], says: str, tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=20, **PLAIN)
    ended = instil(command, "recipe.yaml", *(part for each in changes for part in ("--set", each)), cwd=folder)
    assert ended.code == 2 and says in ended.said, ended.err


def test_another_vocabulary_or_kind_is_refused_before_labelling(foreign: Path, tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=60, **PLAIN)
    for model, says in (
        (foreign, f"labels.others: {foreign} has another vocabulary than the teacher"),
        (models_folder() / "t5", "is encoder-decoder and the teacher decoder-only, so their rows differ"),
    ):
        options = ("--set", others((model, 0.5)))
        checked = instil("check", "recipe.yaml", *options, "--quick", "--json", cwd=folder)
        (problem,) = [each for each in json.loads(checked.out)["problems"] if each["code"] == "teachers-differ"]
        assert checked.code == 1 and problem["grade"] == "fail" and says in problem["what"]
        ended = instil("label", "recipe.yaml", *options, cwd=folder)
        assert ended.code == 2 and says in ended.said and "choose teachers that share a tokenizer" in ended.said
        assert not list(folder.glob("runs/*/label*"))


def test_further_teachers_whom_nobody_hears_are_told_by_the_check(tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=60, **PLAIN)
    named = ("--set", others((models_folder() / "llama", 0.5)))
    for alpha, expected in ((0, ["warn"]), (0.7, [])):
        options = ("--set", f"distil.alpha={alpha}", "--only", "objective", "--quick", "--json")
        problems = json.loads(instil("check", "recipe.yaml", *named, *options, cwd=folder).out)["problems"]
        assert [each["grade"] for each in problems if each["code"] == "others-unused"] == expected


def test_a_further_teacher_that_is_not_there_is_told_by_the_check(tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=60, **PLAIN)
    gone = others((tmp_path / "gone", 0.5))
    checked = instil("check", "recipe.yaml", "--set", gone, "--only", "models", "--quick", cwd=folder)
    assert checked.code == 1 and "gone" in checked.out
