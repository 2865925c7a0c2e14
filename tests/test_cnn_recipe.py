"""The recipe of the worked example: its values, and the same file end to end with tiny models and local articles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import instil
from instil.run.recipe_file import read_recipe
from project import models_folder, write_pairs

pytestmark = pytest.mark.timeout(600)
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "cnn_dailymail_t5.yaml"


def test_the_recipe_has_the_values_of_the_worked_example() -> None:
    recipe = read_recipe(RECIPE)
    assert recipe.distil is not None and recipe.student is not None and recipe.teacher.teach is not None
    loop = recipe.distil.loop
    assert (recipe.teacher.model, recipe.student.model) == ("google-t5/t5-base", "google-t5/t5-small")
    assert (recipe.limits.source, recipe.limits.target, recipe.evaluate.beams, recipe.seed) == (512, 128, 4, 42)
    assert (recipe.distil.alpha.values, recipe.distil.temperatures, recipe.labels.temperatures) == (
        (0.7,),
        (2.0,),
        (2.0,),
    )
    assert (loop.learning_rate, loop.decay, loop.budget.epochs) == (3e-5, "linear", 3)
    assert (loop.batch_size, loop.accumulation) == (2, 8)
    assert (recipe.data.source, recipe.data.config) == ("hub:abisee/cnn_dailymail", "3.0.0")


def test_the_same_recipe_runs_from_end_to_end_with_tiny_models_and_local_articles(tmp_path: Path) -> None:
    write_pairs(tmp_path / "articles.jsonl", 60, words=40, names=("id", "article", "highlights"))
    t5 = str(models_folder() / "t5")
    overrides = {
        "data.source": "articles.jsonl", "data.config": None, "data.clean.near_duplicates": None, "teacher.model": t5,
        "student.model": t5, "limits.source": 64, "limits.target": 16, "evaluate.items": 3, "evaluate.latency_items": 1,
        "evaluate.max_new_tokens": 6,
    }  # fmt: skip
    changes = [word for key, value in overrides.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    ended = instil("run", str(RECIPE), "--no-check", "--json", *changes, cwd=tmp_path)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert {"teacher", "student", "student_without_teacher", "lead1", "retention"} <= set(summary)
    history = next(tmp_path.glob("runs/*/distil-*/history.jsonl")).read_text().splitlines()
    epoch = len([1 for _ in (next(tmp_path.glob("runs/*/data-*/train.jsonl"))).open()]) / 2 / 8
    assert len(history) == pytest.approx(3 * epoch, abs=3)
