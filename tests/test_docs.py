"""The pages that are made from the code are up to date, and what ships beside it fits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from instil.core.fingerprint import fingerprint
from instil.data.synopsis import load
from instil.labels.store import LabelStore
from instil.models.adapters import hash_adapter
from instil.run.compare.compare import read_plan
from instil.run.recipe_file import read_recipe
from instil.run.stages.label import STORE_NAME
from instil.run.stages.teach import shipped

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("tool", ["build_cli_docs.py", "build_plan_docs.py"])
def test_a_page_that_is_made_is_up_to_date(tool: str) -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "recipes").glob("*.yaml"), *(ROOT / "recipes" / "methods").glob("*.yaml")]),
    ids=lambda path: path.name,
)
def test_every_recipe_reads_and_stands_in_the_readme(path: Path) -> None:
    recipe = read_plan(path).config if path.stem.endswith("-compare") else read_recipe(path)
    assert recipe.name
    place = path.relative_to(ROOT)
    told = place.as_posix() if place.parent.name == "recipes" else f"{place.parent.as_posix()}/"
    assert told in (ROOT / "README.md").read_text(encoding="utf8")


def test_what_ships_for_the_quickstart_fits_its_recipe() -> None:
    recipe = read_recipe(ROOT / "recipes" / "quickstart.yaml")
    assert recipe.teacher.adapter and recipe.labels.store
    hash_adapter(shipped(recipe.teacher.adapter, "models"))
    folder = shipped(recipe.labels.store, "labels")
    store = LabelStore(
        folder / STORE_NAME,
        expect={"prompt": fingerprint(recipe.prompt, recipe.limits)},
        temperature=recipe.labels.temperatures[0],
    )
    assert len(store) == 2400
    assert all(record.id in store for record in load("train")[:2400])
