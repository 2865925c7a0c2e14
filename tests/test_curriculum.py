"""A curriculum: difficulty as written out, easy examples first, resumed as uninterrupted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from instil.core.errors import ConfigError
from instil.data.batches import Curriculum
from instil.data.tokens import Encoded
from instil.run.recipe_file import read_recipe
from instil.train.curriculum import difficulties, easy_first
from instil.train.loop import train
from project import project
from test_loop import SEED, distance, make_config, make_task, run, weights

EXAMPLES = [Encoded("a", (3,), (7, 8)), Encoded("b", (3,), (9,)), Encoded("c", (3,), (5,))]
ROWS: list[dict[int, float]] = [{7: 0.5, 4: 0.3}, {4: 0.9, 6: 0.05}, {4: 0.2, 9: 0.1, 6: 0.1}, {4: 1.0}]
LEAST = 1e-3


def read(examples: Any) -> tuple[torch.Tensor, torch.Tensor]:
    rows = {"a": ROWS[:2], "b": ROWS[2:3], "c": ROWS[3:]}
    chosen = [row for example in examples for row in rows[example.id]]
    ids_NK, probs_NK = torch.full((len(chosen), 3), -1), torch.zeros(len(chosen), 3)
    for number, row in enumerate(chosen):
        ids_NK[number, : len(row)], probs_NK[number, : len(row)] = (
            torch.tensor(list(row)),
            torch.tensor([*row.values()]),
        )
    return ids_NK, probs_NK


def test_difficulty_is_as_written_out() -> None:
    # The second target of "a" is in no entry: at most 0.05. That of "c" neither: the first entry leaves nothing.
    losses = [(-math.log(0.5) - math.log(0.05)) / 2, -math.log(0.1), -math.log(LEAST)]
    assert difficulties(read, EXAMPLES, by="loss", least=LEAST) == pytest.approx(losses, rel=1e-5)

    def entropy(row: dict[int, float]) -> float:
        return -sum(p * math.log(p) for p in (*row.values(), 1 - sum(row.values())) if p > 1e-9)

    entropies = [(entropy(ROWS[0]) + entropy(ROWS[1])) / 2, entropy(ROWS[2]), 0.0]
    assert difficulties(read, EXAMPLES, by="entropy", least=LEAST) == pytest.approx(entropies, abs=1e-5)
    assert easy_first([2.0, 0.5, 2.0, 1.0]) == (1, 3, 0, 2)


def test_the_loop_deals_by_the_curriculum_and_resumes_as_uninterrupted(tmp_path: Path) -> None:
    order = tuple(reversed(range(24)))

    def task() -> Any:
        made = make_task("t5")
        made.curriculum = Curriculum(order=order, shares=(0.25, 0.5))
        return made

    config = make_config({"epochs": 3}, checkpoint_steps=2, batch_tokens=120)
    whole = task()
    reports = run(whole, config, tmp_path / "whole")
    # Six examples, twelve, then all: what a loop over everything would have read more than once in.
    assert reports[-1].rows == sum(len(whole.examples[index].target_ids) for n in (6, 12, 24) for index in order[:n])
    for report in train(task(), config, folder=tmp_path / "cut", seed=SEED):
        if report.step == 3:
            break
    resumed = task()
    run(resumed, config, tmp_path / "cut")
    assert distance(weights(resumed), weights(whole)) == 0


def test_it_needs_labels(tmp_path: Path) -> None:
    path = project(tmp_path) / "recipe.yaml"
    with pytest.raises(ConfigError, match="a curriculum is read from the teacher's labels"):
        read_recipe(path, ("distil.alpha=0", "distil.curriculum={by: entropy}"))
