"""`instil label --part`, `instil labels merge` and `verify`, as several machines and a suspicious user run them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command import instil
from instil.labels.store import EXAMPLES_A_SHARD
from project import finished, project
from test_labels import flip_a_bit

pytestmark = pytest.mark.timeout(300)


def label(folder: Path, *options: str) -> dict[str, object]:
    ended = instil("label", "recipe.yaml", *options, "--json", cwd=folder)
    assert ended.code == 0, ended.err
    found: dict[str, object] = json.loads(ended.out)
    return found


def shards(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose labels fill two shards, made in two parts and, under another name, at once."""
    folder = project(
        tmp_path_factory.mktemp("labels") / "p", pairs=EXAMPLES_A_SHARD + 300, teacher={"teach": None},
    )  # fmt: skip
    label(folder, "--set", "name=whole")
    for part in ("1/2", "2/2"):
        assert "labels merge" in str(label(folder, "--part", part)["next"])
    return folder


def parts_of(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.glob("runs/t5/label-part-*"))]


def test_parts_merge_into_the_store_made_at_once_and_a_student_learns_from_it(labelled: Path) -> None:
    ended = instil("labels", "merge", "merged", *parts_of(labelled), cwd=labelled)
    assert ended.code == 0, ended.err
    whole = finished(labelled, "label") / "store"
    assert whole.parts[-3] == "whole" and shards(labelled / "merged" / "store") == shards(whole)
    told, following = ended.out.splitlines()
    assert "in 2 shards" in told and following == "Next: set labels.store to merged in the recipe, then instil distil"
    learned = instil("distil", "recipe.yaml", "--set", "labels.store=merged", cwd=labelled)
    assert learned.code == 0, learned.err
    again = instil("labels", "merge", "merged", *parts_of(labelled), cwd=labelled)
    assert again.code == 1 and "there is a store already; name a new folder" in again.said


def test_a_part_alone_is_refused_and_the_missing_shard_named(labelled: Path) -> None:
    first, second = parts_of(labelled)
    ended = instil("labels", "merge", "half", second, cwd=labelled)
    assert ended.code == 1 and "shard-00000.safetensors of 2 shards in none of the parts" in ended.said
    learned = instil("distil", "recipe.yaml", "--set", f"labels.store={first}", cwd=labelled)
    assert learned.code == 1 and "part 1/2 of a store" in learned.said
    assert not (labelled / "half").exists()


@pytest.mark.parametrize(
    ("part", "code", "says"),
    [("3/2", 2, "is no part"), ("1", 2, "is no part"), ("3/3", 1, "part 3/3 has no shard, since the data fill 2")],
)
def test_parts_that_cannot_be(part: str, code: int, says: str, labelled: Path) -> None:
    ended = instil("label", "recipe.yaml", "--part", part, cwd=labelled)
    assert ended.code == code and says in " ".join(ended.err.split()), ended.err


def test_verify_proves_a_store_whole_and_names_what_is_damaged(labelled: Path, tmp_path: Path) -> None:
    whole = finished(labelled, "label")
    sound = instil("labels", "verify", str(whole), cwd=tmp_path)
    assert (sound.code, sound.out) == (0, "2 of 2 shards are whole\n"), sound.err
    shutil.copytree(whole / "store", tmp_path / "hurt")
    flip_a_bit(tmp_path / "hurt" / "shard-00001.safetensors")
    ended = instil("labels", "verify", "hurt", cwd=tmp_path)
    assert ended.code == 1 and "shard-00001.safetensors" in ended.out and "1 of 2 shards are whole" in ended.out
    assert "Next: run the instil label command that made it again" in ended.out
    told = json.loads(instil("labels", "verify", "hurt", "--json", cwd=tmp_path).out)
    assert told["shards"] == 2 and ["shard-00001" in line for line in told["damaged"]] == [True]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nothing", "nothing: no such folder; name that of a label stage"),
        ("recipe.yaml", "recipe.yaml: is a file; name that of a label stage"),
        ("runs/k", "runs/k: the folder of a run; name one of its label stages: label-1, label-2"),
        ("runs/k/label-1", "runs/k/label-1: no manifest.json, so labelling has not ended"),
        ("runs/k/label-2", "runs/k/label-2/store: no manifest.json, so labelling has not ended"),
    ],
)
def test_what_is_no_store_is_told_apart(place: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: k")
    (tmp_path / "runs" / "k" / "label-1").mkdir(parents=True)
    (tmp_path / "runs" / "k" / "label-2" / "store").mkdir(parents=True)
    for command in ("show", "verify"):
        ended = instil("labels", command, place, cwd=tmp_path)
        assert ended.code == 1 and says in ended.said
