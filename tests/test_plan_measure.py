"""`instil plan --measure`: real steps on this machine, and what is told from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import instil
from instil.core.errors import ConfigError
from instil.data.tokens import Encoded
from instil.plan.configs import shape_of_config
from instil.plan.work import backward_flops, forward_flops
from instil.run.measure import TIMED, _batch_flops, measure, whole_steps
from instil.run.pipeline import Pipeline
from instil.run.recipe_file import read_recipe
from instil.train.config import Budget
from project import project
from test_plan_shape import LLAMA


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("measured"), "llama")


def test_it_times_real_steps_and_foresees_the_whole(folder: Path) -> None:
    ended = instil("plan", "--measure", "recipe.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert told["steps"] == TIMED and told["step_seconds"] > 0 and told["flops_per_second"] > 0
    assert told["whole_seconds"] == pytest.approx(told["whole_steps"] * told["step_seconds"])
    assert told["next"] == "instil run recipe.yaml"
    assert not list(folder.glob("runs/*/label-*")) and not list(folder.glob("runs/*/distil-*"))


def test_a_recipe_that_trains_nobody_cannot_be_measured(folder: Path) -> None:
    recipe = read_recipe(folder / "recipe.yaml", ("distil=null",))
    with pytest.raises(ConfigError, match="no distil section"):
        measure(Pipeline(recipe, folder))


def test_a_batch_is_counted_with_its_padding() -> None:
    shape = shape_of_config("tiny", LLAMA)
    short, long = Encoded("a", (1,) * 4, (2,) * 2), Encoded("b", (1,) * 10, (2,) * 6)
    padded = forward_flops(shape, 10, 6, rows=4)
    assert _batch_flops(shape, [short, long]) == 2 * (padded.total + backward_flops(padded))


@pytest.mark.parametrize(
    ("budget", "steps"),
    [(Budget(steps=7), 7), (Budget(minutes=2), 60), (Budget(tokens=1000), 10), (Budget(epochs=3), 15)],
)
def test_a_budget_is_so_many_steps(budget: Budget, steps: float) -> None:
    assert whole_steps(budget, 2.0, 100.0, 500.0) == pytest.approx(steps)
