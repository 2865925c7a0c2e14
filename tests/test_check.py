"""`instil check`: each broken project gives its own problem and no other; a sound one none; nothing is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from command import instil
from golden import BROKEN, Broken
from harm import sound, taught
from instil.core.errors import ConfigError
from instil.models.wheels import cache_folder
from instil.run.check import check as checking
from instil.run.check.check import Checked, check, chosen_groups
from instil.run.pipeline import Pipeline
from instil.run.recipe_file import read_recipe

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parent.parent


def _checked(folder: Path, *, sample: int = 8, **options: object) -> Checked:
    return check(read_recipe(folder / "recipe.yaml"), folder, sample=sample, **options)  # type: ignore[arg-type]


def _codes(checked: Checked, grade: str) -> set[str]:
    return {each.problem.code for each in checked.findings if each.problem.grade == grade}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    # On fewer records a teacher that learned for less is better on some processors alone.
    sections = {"teacher": {"model": taught(250)}, "data": {"validation_share": 0.2}}
    folder = sound(tmp_path_factory.mktemp("sound") / "p", student={"layers": 1, "scratch": None}, **sections)
    return _checked(folder, sample=20)


def test_a_sound_project_passes(usual: Checked) -> None:
    assert usual.exit_code == 0 and not _codes(usual, "fail") and not _codes(usual, "warn")
    expected = {"teacher-better", "labels-informative", "loss-balanced", "memory-fits", "disk-fits", "time", "device"}
    assert expected <= _codes(usual, "info")


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name.replace(" ", "-"))
def test_each_broken_project_gives_its_problem(broken: Broken, tmp_path: Path) -> None:
    folder = broken.make(tmp_path / "p")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = _checked(folder)
    told = [str(each.problem) for each in found.findings if each.problem.grade != "info"]
    assert _codes(found, "fail") == ({broken.code} if broken.grade == "fail" else set()), told
    assert broken.code in _codes(found, broken.grade), told
    if broken.grade == "warn":
        assert _codes(found, "warn") == {broken.code}, told
    assert found.exit_code == (broken.grade == "fail")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_weak_teacher_is_told_with_both_scores(tmp_path: Path) -> None:
    """The worked example: a teacher that was never taught the task, and a student that was."""
    folder = sound(tmp_path / "p", teacher={"model": taught(40)})
    ended = instil(
        "check", "recipe.yaml", "--only", "teacher", "--json", "--set", f"student={{model: {taught(150)}}}", cwd=folder
    )
    assert ended.code == 1, ended.err
    (found,) = (each for each in json.loads(ended.out)["problems"] if each["grade"] == "fail")
    assert found["code"] == "teacher-worse" and found["group"] == "teacher"
    scores = re.fullmatch(r"your teacher \(([\d.]+)\) is worse than your student \(([\d.]+)\)", found["what"])
    assert scores and float(scores[1]) < float(scores[2])
    assert "fine-tune it first" in found["remedy"] and "instil teach" in found["remedy"]
    assert "ROUGE-L teacher" in found["evidence"] and "nats a token" in found["evidence"]


def test_the_command_prints_a_table_and_what_comes_next(tmp_path: Path) -> None:
    folder = sound(tmp_path / "p", limits={"target": 4})
    before = sorted(folder.rglob("*"))
    ended = instil("check", "recipe.yaml", "--quick", cwd=folder)
    assert ended.code == 1 and "targets-cut" in ended.out and "remedy: raise limits.target" in ended.out
    assert ended.out.splitlines()[-1].startswith("Next: instil check recipe.yaml")
    passed = instil("check", "recipe.yaml", "--quick", "--set", "limits.target=16", "--json", cwd=folder)
    told = json.loads(passed.out)
    assert passed.code == 0 and told["passed"] and told["next"] == "instil run recipe.yaml --set limits.target=16"
    assert {each["group"] for each in told["problems"]} <= set(told["groups"])
    assert sorted(folder.rglob("*")) == before


def test_some_groups_only() -> None:
    assert chosen_groups("models, data") == ("data", "models")
    with pytest.raises(ConfigError, match="--only modles: no such group; known are environment, data"):
        chosen_groups("modles")


def test_without_weights_nothing_is_computed(tmp_path: Path) -> None:
    found = _checked(sound(tmp_path / "p"), quick=True)
    assert not found.exit_code
    assert {"teacher-better", "labels-informative", "loss-balanced"}.isdisjoint(_codes(found, "info"))
    assert any("planner" in each.problem.evidence for each in found.findings)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    distil = {"loop": {"precision": "fp16", "trackers": ["wandb"]}, "alpha": 0.05}
    folder = sound(tmp_path / "p", limits={"target": 4}, student={"scratch": None, "layers": 9}, distil=distil)
    found = _checked(folder)
    assert _codes(found, "fail") == {"targets-cut", "model-unusable", "precision-unsupported", "tracker-missing"}
    assert _codes(found, "warn") == {"alpha-low"}
    grades = [each.problem.grade for each in found.findings if each.group == "environment"]
    assert grades == sorted(grades, key=["fail", "warn", "info"].index)


def test_a_run_stops_before_anything_is_spent(tmp_path: Path) -> None:
    folder = sound(tmp_path / "p", limits={"target": 4})
    ended = instil("run", "recipe.yaml", cwd=folder)
    assert ended.code == 1 and ended.out == ""
    assert ended.said.startswith("targets are longer than limits.target (") and "raise limits.target" in ended.said
    assert [path.name for path in folder.glob("runs/*/*") if not path.name.startswith("data-")] == []


def test_a_run_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sound(tmp_path / "p")
    recipe = read_recipe(folder / "recipe.yaml")
    seen: list[str] = []

    def counted(*values: Any, **options: Any) -> Checked:
        seen.append("checked")
        return check(*values, **options)

    monkeypatch.setattr(checking, "check", counted)
    for _ in range(2):
        checking.check_first(Pipeline(recipe, folder))
    assert seen == ["checked"] and len(list(folder.glob("runs/*/check-*.json"))) == 1
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    (folder / "pairs.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    checking.check_first(Pipeline(recipe, folder))
    assert seen == ["checked", "checked"]


@pytest.mark.slow
def test_the_quickstart_passes() -> None:
    recipe = read_recipe(ROOT / "recipes" / "quickstart.yaml")
    if not list((cache_folder() / "models").glob("smollm2-135m-instruct-*")):
        pytest.skip("the quickstart's model is not on this machine")
    found = check(recipe, ROOT, sample=4)
    assert not found.exit_code, found.line()
    assert {"teacher-better", "labels-agree", "labels-informative", "loss-balanced"} <= _codes(found, "info")
