"""Whatever is wrong: one clear line, the right exit code, no traceback, earlier results intact, and it goes on."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from command import Command, Ended, instil
from project import finished, models_folder, project, results, weights, write_pairs

pytestmark = pytest.mark.timeout(600)
SHORT = ("--set", "teacher.teach=null")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is distilled, with several shards of labels."""
    folder = project(tmp_path_factory.mktemp("done"), pairs=700)
    ended = instil("distil", "recipe.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path / "copy")
    return tmp_path / "copy"


def _refused(ended: Ended, *, code: int = 1, says: tuple[str, ...]) -> None:
    assert ended.code == code, ended.err
    for word in says:
        assert word in ended.said, ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ("pairs.jsonl", "empty")),
        (b"\n\n", ("pairs.jsonl",)),
        (b'{"id": "1", "source": "a", "target": "b"}\n{"id": "2", "source": "a"', ("pairs.jsonl:2",)),
        (b'{"id": "1", "text": "a", "target": "b"}\n', ("source", "text")),
        (b'{"id": "1", "source": "caf\xe9", "target": "b"}\n', ("pairs.jsonl", "UTF-8")),
        (b'{"id": null, "source": "", "target": "b"}\n' * 3, ("'source'", "empty")),
        (b'{"id": null, "source": "a", "target": ""}\n' * 3, ("'target'", "empty")),
        (b'{"id": "1", "source": ["a"], "target": "b"}\n', ("pairs.jsonl:1", "source")),
        (b"[1, 2]\n", ("pairs.jsonl:1",)),
        (b"\x1f\x8b\x08nonsense", ("pairs.jsonl",)),
    ],
    ids=["empty", "blank", "torn", "column", "encoding", "no-source", "no-target", "type", "no-object", "binary"],
)
def test_bad_data_is_one_line(content: bytes, says: tuple[str, ...], tmp_path: Path) -> None:
    folder = project(tmp_path / "p", pairs=1)
    (folder / "pairs.jsonl").write_bytes(content)
    _refused(instil("data", "recipe.yaml", cwd=folder), says=says)


def test_mended_data_goes_on_with_the_same_command(tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    (folder / "pairs.jsonl").write_bytes(b"")
    _refused(instil("data", "recipe.yaml", cwd=folder), says=("empty",))
    write_pairs(folder / "pairs.jsonl", 30)
    assert instil("data", "recipe.yaml", cwd=folder).code == 0


def test_a_file_that_is_not_there_or_not_readable(tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    (folder / "pairs.jsonl").chmod(0)
    _refused(instil("data", "recipe.yaml", cwd=folder, plain_user=True), says=("pairs.jsonl", "ermission"))
    (folder / "pairs.jsonl").unlink()
    _refused(instil("data", "recipe.yaml", cwd=folder), says=("pairs.jsonl", "does not exist"))


def test_nothing_to_evaluate_on(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", data={"test_share": 0})
    _refused(instil("evaluate", "recipe.yaml", *SHORT, "--set", "distil=null", cwd=folder), says=("test",))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_model_that_only_encodes(role: str, tmp_path: Path) -> None:
    bert = str(models_folder() / "bert")
    changes: dict[str, Any] = {"teacher": {"model": bert}} if role == "teacher" else {}
    folder = project(tmp_path / "p", **changes)
    student = () if role == "teacher" else ("--set", f"student={{model: {bert}}}")
    ended = instil("run", "recipe.yaml", *student, cwd=folder)
    _refused(ended, says=(bert, "BertForMaskedLM only encodes text"))
    assert "teach: " not in ended.err


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("teacher.model=./nowhere", ("./nowhere: no such folder",)),
        ("teacher.adapter=nowhere", ("nowhere: no adapter_config.json",)),
        ("teacher.adapter=builtin:nothing", ("instil ships no such thing",)),
        ("labels.store=nowhere", ("nowhere/store: no such folder; name that of a label stage",)),
        ("student.layers=9", ("cannot keep 9 of 2 layers",)),
        ("teacher.teach.loop.batch_tokens=9", ("batch_tokens is 9 but the longest example has",)),
        ("distil.loop.batch_tokens=9", ("batch_tokens is 9 but the longest example has",)),
        ("distil.loop.precision=fp16", ("needs a GPU",)),
        ("distil={loop: {budget: {steps: 1}, trackers: [wandb]}, alpha: 0}", ("wandb", "not installed")),
        ("teacher.teach.adapt={kind: last, layers: 9}", ("adapt.layers is 9 but the model has 2",)),
        ("distil.loop.learning_rate=1e30", ("learning_rate",)),
    ],
)
def test_what_a_recipe_may_ask_for_in_vain(override: str, says: tuple[str, ...], copy: Path) -> None:
    before = results(copy)
    ended = instil("distil", "recipe.yaml", "--set", override, cwd=copy)
    assert ended.code in (1, 2), ended.err
    for word in says:
        assert word in ended.said
    assert before.items() <= results(copy).items()


def test_different_precisions_in_one_run(tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    ended = instil("distil", "recipe.yaml", "--set", "distil.loop.precision=bf16", cwd=folder)
    assert ended.code == 0, ended.err


# The disk.


def _without(folder: Path, stage: str) -> None:
    for path in folder.glob(f"runs/*/{stage}-*"):
        shutil.rmtree(path)


@pytest.mark.parametrize("stage", ["data", "teach", "label", "student", "distil", "evaluate"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(stage: str, copy: Path) -> None:
    expected = weights(copy)
    _without(copy, stage)
    before = results(copy)
    command = {"student": "distil"}.get(stage, stage)
    most = {"data": 2_000, "label": 3_000, "evaluate": 3_000}.get(stage, 30_000)
    ended = instil(command, "recipe.yaml", cwd=copy, most_bytes=most)
    _refused(ended, says=("failed while writing", "run the same command again, finished work is kept"))
    assert f"/{stage}-" in ended.said or "recipe.yaml" in ended.said
    assert before.items() <= results(copy).items()
    assert instil("distil", "recipe.yaml", cwd=copy).code == 0
    assert weights(copy) == expected


def test_a_full_disk_at_a_checkpoint(copy: Path) -> None:
    _without(copy, "distil")
    ended = instil("distil", "recipe.yaml", cwd=copy, most_bytes=140_000)
    _refused(ended, says=("failed while writing", "checkpoint"))


def test_a_full_disk_for_the_trackers_log(copy: Path) -> None:
    _without(copy, "distil")
    tracked = ("--set", "distil.loop.trackers=[tensorboard]", "--set", "distil.loop.checkpoint_steps=1000")
    ended = instil("distil", "recipe.yaml", *tracked, cwd=copy, most_bytes=1000)
    _refused(ended, says=("failed while writing",))


def test_a_folder_that_may_not_be_written(copy: Path) -> None:
    (copy / "locked").mkdir(mode=0o555)
    ended = instil("data", "recipe.yaml", "--set", "runs_dir=locked", cwd=copy, plain_user=True)
    _refused(ended, says=("locked", "permission denied"))
    (copy / "file").write_text("")
    ended = instil("data", "recipe.yaml", "--set", "runs_dir=file", cwd=copy)
    _refused(ended, says=("file", "choose another folder"))


# What stands on the disk already.


def _flip(path: Path, where: float = 0.9) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 1
    path.write_bytes(content)


def _shard(folder: Path) -> Path:
    return finished(folder, "label") / "store" / "shard-00001.safetensors"


def _flip_shard(folder: Path) -> Path:
    _flip(_shard(folder))
    return _shard(folder)


def _tear_shard(folder: Path) -> Path:
    path = _shard(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _lose_shard(folder: Path) -> Path:
    _shard(folder).unlink()
    return _shard(folder)


@pytest.mark.parametrize("harm", [_flip_shard, _tear_shard, _lose_shard])
def test_a_damaged_shard_is_named_and_only_its_records_are_labelled_again(harm: Any, copy: Path) -> None:
    before = results(copy)
    whole = _shard(copy).with_name("shard-00000.safetensors")
    written = whole.stat().st_mtime_ns
    broken = harm(copy)
    ended = instil("label", "recipe.yaml", cwd=copy)
    assert ended.code == 0, ended.err
    assert f"{broken.name} damaged or missing; mending it" in ended.err
    assert results(copy) == before
    assert whole.stat().st_mtime_ns == written


@pytest.mark.parametrize("stage", ["data", "teach", "label", "student", "distil"])
def test_a_damaged_manifest_is_named_and_deleting_its_folder_mends_it(stage: str, copy: Path) -> None:
    before = results(copy)
    folder = finished(copy, stage)
    (folder / "manifest.json").write_text('{"stage": ')
    ended = instil("distil", "recipe.yaml", cwd=copy)
    _refused(ended, says=(f"{folder.relative_to(copy)}/manifest.json: damaged manifest", "delete the folder"))
    shutil.rmtree(folder)
    assert instil("distil", "recipe.yaml", cwd=copy).code == 0
    assert results(copy) == before


def test_a_lost_manifest_is_made_anew(copy: Path) -> None:
    before = results(copy)
    (finished(copy, "distil") / "manifest.json").unlink()
    ended = instil("distil", "recipe.yaml", cwd=copy)
    assert ended.code == 0, ended.err
    assert "manifest.json is gone; mending it" in ended.err
    assert results(copy) == before


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("harm", [_flip, _tear])
@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("student/model/model.safetensors", "distil"),
        ("teach/model/model.safetensors", "label"),
        ("data/train.jsonl", "label"),
    ],
)
def test_a_damaged_result_is_named_and_deleting_its_folder_mends_it(
    file: str, command: str, harm: Any, copy: Path
) -> None:
    before = results(copy)
    stage, _, inner = file.partition("/")
    _without(copy, command)
    folder = finished(copy, stage)
    harm(folder / inner)
    ended = instil(command, "recipe.yaml", cwd=copy)
    _refused(ended, says=(str(folder.relative_to(copy)), "delete"))
    shutil.rmtree(folder)
    assert instil("distil", "recipe.yaml", cwd=copy).code == 0
    assert results(copy) == before


# Labels of somebody else.


def test_labels_of_another_teacher(copy: Path, tmp_path: Path) -> None:
    store = finished(copy, "label")
    other = project(tmp_path / "other", pairs=700)
    ended = instil("distil", "recipe.yaml", *SHORT, "--set", f"labels.store={store}", cwd=other)
    details = json.loads((store / "store" / "manifest.json").read_text())["details"]
    assert details["dtype"] == "float32" and {"weights", "tokenizer", "template", "data"} <= set(details)
    _refused(ended, says=(f"made from teaching {details['teaching']}, but this run has teaching ",))
    assert details["tokenizer"] not in ended.err and "label again" in ended.err


def test_labels_in_other_tokens_say_that_it_is_the_tokenizer(copy: Path) -> None:
    store = finished(copy, "label").rename(copy / "mine")
    before = json.loads((store / "store" / "manifest.json").read_text())["details"]["tokenizer"]
    other = shutil.copytree(models_folder() / "t5", copy / "other")
    settings = other / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 99}), encoding="utf8")
    changes = [f"labels.store={store}", f"teacher.model={other}"]
    ended = instil("distil", "recipe.yaml", *(word for change in changes for word in ("--set", change)), cwd=copy)
    _refused(ended, says=(f"made from tokenizer {before}, but this run has tokenizer ",))
    assert "weights" not in ended.err


def test_labels_at_another_temperature(copy: Path) -> None:
    store = finished(copy, "label")
    hotter = ("--set", "labels.temperatures=[4]", "--set", "distil.temperature=4", "--set", f"labels.store={store}")
    _refused(
        instil("distil", "recipe.yaml", *hotter, cwd=copy), says=("recorded at temperature 2", "the recipe asks for 4")
    )


def test_labels_made_before_are_taken_as_they_are(copy: Path) -> None:
    store = finished(copy, "label").rename(copy / "mine")
    ended = instil("distil", "recipe.yaml", "--set", f"labels.store={store}", cwd=copy)
    assert ended.code == 0, ended.err
    assert "distil: reused" in ended.err and "label: " not in ended.err


# Two at once.


def test_a_second_process_at_the_same_stage(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", teacher={"teach": {"loop": {"budget": {"steps": 100_000}}}})
    first = Command("teach", "recipe.yaml", cwd=folder)
    while not list(folder.glob("runs/*/teach-*.part/history.jsonl")) and first.poll() is None:
        time.sleep(0.01)
    second = instil("teach", "recipe.yaml", cwd=folder)
    first.signal(signal.SIGKILL)
    assert first.end().code == -signal.SIGKILL
    _refused(second, code=2, says=("another process is at work here",))
    freed = instil("teach", "recipe.yaml", "--set", "teacher.teach.loop.budget={steps: 3}", cwd=folder)
    assert freed.code == 0, freed.err


# A student of another family.


def test_a_student_with_another_tokenizer_is_told_before_anything_is_spent(copy: Path) -> None:
    """And learns from the teacher's texts, as the message says."""
    before = results(copy)
    other = ("--set", f"student={{model: {models_folder() / 'llama'}}}")
    ended = instil("distil", "recipe.yaml", *other, cwd=copy)
    _refused(ended, code=2, says=("in other tokens than the teacher", "distil.alpha: 0 and labels.targets: teacher"))
    assert results(copy) == before
    texts = ("--set", "distil.alpha=0", "--set", "labels.targets=teacher")
    ended = instil("distil", "recipe.yaml", *other, *texts, *SHORT, cwd=copy)
    assert ended.code == 0, ended.err
