"""Assistants: each learns from the one above it, is made once, and the last one teaches the student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command import Ended, instil
from instil.core.errors import ConfigError
from instil.run.recipe_file import read_recipe
from project import finished, project

LOOP = {"budget": {"steps": 3}, "batch_tokens": 512, "trackers": []}
SECTIONS: dict[str, Any] = {
    "teacher": {"teach": None},
    "labels": {"targets": "gold", "temperatures": [1.0]},
    "student": {"layers": 1, "mend": False},
    "assistants": [{"student": {"layers": 2, "calibration": 4}}, {"student": {"layers": 2}, "loop": LOOP}],
    "distil": {"temperature": 1.0, "without_teacher": False, "loop": LOOP | {"budget": {"steps": 4}}},
}


@pytest.fixture(scope="module", params=["llama", "t5"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    folder = project(tmp_path_factory.mktemp(request.param), request.param, pairs=60, **SECTIONS)
    return folder, instil("run", "recipe.yaml", "--no-check", "--json", cwd=folder)


def manifest(folder: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished(folder, stage) / "manifest.json").read_text())
    return found


@pytest.mark.timeout(300)
def test_each_learns_from_the_one_above_it(run: tuple[Path, Ended]) -> None:
    folder, ended = run
    assert ended.code == 0, ended.err
    above = manifest(folder, "assistant-1-student")["inputs"]["teacher"]
    for stage, steps in (("assistant-1-", 4), ("assistant-2-", 3), ("", 4)):
        for part in ("label", "student"):
            assert manifest(folder, stage + part)["inputs"]["teacher"] == above, stage + part
        learned = manifest(folder, f"{stage}distil")
        assert learned["result"]["step"] == steps
        above = learned["fingerprint"]
    teachers = {
        manifest(folder, f"{stage}label")["inputs"]["teacher"] for stage in ("", "assistant-1-", "assistant-2-")
    }
    assert len(teachers) == 3
    evaluated = manifest(folder, "evaluate")["inputs"]["teacher"]
    assert evaluated == manifest(folder, "assistant-1-label")["inputs"]["teacher"], "retention is of the teacher itself"
    assert "by way of 2 assistants" in (finished(folder, "distil") / "model" / "README.md").read_text()


@pytest.mark.timeout(300)
def test_what_is_above_a_change_is_found_again(run: tuple[Path, Ended]) -> None:
    folder, _ = run
    ended = instil("distil", "recipe.yaml", "--set", "distil.alpha=0.2", "--set", "assistants=[]", cwd=folder)
    assert ended.code == 0 and "assistant" not in ended.err, ended.err
    again = instil("distil", "recipe.yaml", cwd=folder)
    assert again.code == 0 and "done in" not in again.err, again.err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("student: {layers: 2}", "student: {vocabulary: {tokens: used}}", "hands on all of the teacher's tokens"),
        ("labels: {}", "labels: {store: somewhere}", "makes labels of its own"),
        ("distil: {loop: {budget: {steps: 1}}}", "", "assistants learn as the student does"),
        ("student: {layers: 2}", "students: {layers: 2}", "did you mean 'student'"),
    ],
)
def test_mistakes_are_one_line(old: str, new: str, says: str, tmp_path: Path) -> None:
    good = """\
name: good
data: {source: pairs.jsonl}
teacher: {model: somewhere}
labels: {}
assistants:
  - student: {layers: 2}
student: {layers: 1}
distil: {loop: {budget: {steps: 1}}}
"""
    path = tmp_path / "recipe.yaml"
    assert good.count(old) == 1
    path.write_text(good.replace(old, new), encoding="utf8")
    with pytest.raises(ConfigError, match=says):
        read_recipe(path, ())
