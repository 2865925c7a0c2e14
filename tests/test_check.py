"""`instil check`: each broken project gives its own problem and no other; a sound one none; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from golden import BROKEN, Broken, sound
from instil.run.check import Checked, check
from instil.run.recipe_file import read_recipe

pytestmark = pytest.mark.timeout(300)


def _checked(folder: Path, **options: object) -> Checked:
    return check(read_recipe(folder / "recipe.yaml"), folder, sample=12, **options)  # type: ignore[arg-type]


def _codes(checked: Checked, grade: str) -> set[str]:
    return {each.problem.code for each in checked.findings if each.problem.grade == grade}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return _checked(sound(tmp_path_factory.mktemp("sound") / "p", student={"layers": 1, "scratch": None}))


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
