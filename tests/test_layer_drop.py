"""`teach.layer_drop`: the taught layers are named for the student, and what cannot work is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command import instil
from project import finished, project

LOOP = {"budget": {"steps": 6}, "batch_tokens": 512, "trackers": []}


def teach(**options: Any) -> dict[str, Any]:
    return {"teach": {"adapt": {"kind": "full"}, "loop": LOOP, **options}}


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_the_layers_that_stay_stand_in_the_result(kind: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", kind, pairs=60, teacher=teach(layer_drop={"keep": 1}))
    taught = ("--set", "student={choice: taught, mend: false}")
    ended = instil("distil", "recipe.yaml", *taught, cwd=folder)
    assert ended.code == 0, ended.err
    assert "teaches layers 0 of 2 to do without the others" in ended.err
    result = json.loads((finished(folder, "teach") / "manifest.json").read_text())["result"]
    assert result["layer_drop"] == [0]
    student = json.loads((finished(folder, "student") / "manifest.json").read_text())["result"]
    assert student["depth"]["decoder"]["kept"] == [0]
    untaught = instil("distil", "recipe.yaml", *taught, "--set", "teacher.teach.layer_drop=null", cwd=folder)
    assert untaught.code == 2 and "add teacher.teach.layer_drop" in untaught.said
    same = instil("teach", "recipe.yaml", "--set", "teacher.teach.layer_drop.share=0.25", cwd=folder)
    assert same.code == 0 and "teach: done" in same.err  # Another share is another teacher.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layer_drop": {"keep": 2}}, "layer_drop.keep is 2 but the teacher has 2 layers"),
        ({"layer_drop": {"keep": 1}, "adapt": {"kind": "last", "layers": 1}}, "none of the layers that teach.adapt"),
        ({"layer_drop": {"keep": 1, "share": 1}}, "share"),
    ],
)
def test_what_cannot_work_is_one_line(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", "llama", pairs=60, teacher=teach(**options))
    ended = instil("teach", "recipe.yaml", cwd=folder)
    assert ended.code in (1, 2)
    assert says in ended.said
