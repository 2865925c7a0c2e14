"""A learned temperature: between recorded ones, within its bounds, against the student, resumed as uninterrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from instil.core.errors import ConfigError
from instil.models.family import family_of
from instil.objectives.fused import Mix
from instil.objectives.temperature import LearnedTemperature
from instil.run.recipe_file import read_recipe
from instil.train.loop import train
from instil.train.task import RowLoss, TextTask
from oracle import dense_loss
from project import project
from test_loop import SEED, distance, make_config, make_examples, run, weights

RECORDED = (1.0, 2.0, 4.0)


def labels_at(temperature: float) -> Any:
    """Three ids of a teacher with the same logits at each temperature."""
    probs_K = (torch.tensor([3.0, 2.0, 0.0]) / temperature).softmax(-1) * 0.9

    def read(examples: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rows = sum(len(example.target_ids) for example in examples)
        return torch.tensor([[5, 9, 11]]).repeat(rows, 1), probs_K.repeat(rows, 1)

    return read


def make_task(name: str = "llama", recorded: tuple[float, ...] = RECORDED, soft: float = 0.7) -> TextTask:
    model = tiny.tiny_model(name)
    learned = LearnedTemperature(recorded)
    module = RowLoss(model, family_of(model, pad_id=tiny.PAD), Mix(soft=soft, hard=1 - soft), "even", learned)
    return TextTask(module, make_examples(8), labels={each: labels_at(each) for each in recorded})


def test_the_loss_is_the_share_of_both_neighbours_as_written_out() -> None:
    """Dense, in fp64, with the gradient of the share by central differences of the oracle's."""
    task = make_task()
    module, batch = task.module, task.batch([0, 1, 2])
    learned = module.learned
    assert learned is not None
    learned.way.data.fill_(0.012)  # 50 x 0.012: the sigmoid's argument is 0.6.
    along = 2 * float(torch.sigmoid(torch.tensor(0.6)))
    assert (learned.value - 2) / 2 == pytest.approx(along - 1, rel=1e-5)
    rows = module.family.rows(module.model, batch.batch)
    hidden_ND, weight_VD = rows.hidden_ND.detach().double(), rows.head.weight_VD.detach().double()
    parts = [
        float(dense_loss(hidden_ND, weight_VD, rows.target_N, mix=replace(module.mix, temperature=at),
                         labels=batch.labels[at]).total)
        for at in (2.0, 4.0)
    ]  # fmt: skip
    found = module(batch)
    assert float(found.total.detach()) == pytest.approx((2 - along) * parts[0] + (along - 1) * parts[1], rel=1e-5)
    found.total.backward()
    slope = 2 * 50 * float(torch.sigmoid(torch.tensor(0.6)) * torch.sigmoid(torch.tensor(-0.6)))
    wanted = -1e-3 * slope * (parts[1] - parts[0])
    assert learned.way.grad is not None and float(learned.way.grad) == pytest.approx(wanted, rel=1e-4)


def test_it_goes_where_the_loss_is_and_never_beyond_its_bounds(tmp_path: Path) -> None:
    task = make_task(soft=1.0)
    learned = task.module.learned
    assert learned is not None and learned.value == 2
    module, batch = task.module, task.batch(range(8))
    module.model.requires_grad_(False)
    rows = module.family.rows(module.model, batch.batch)
    mixes = {each: Mix(soft=1.0, hard=0.0, temperature=each) for each in RECORDED}
    at = {each: float(module._scored(rows, batch, mix).total) for each, mix in mixes.items()}
    harder = max((2.0, 1.0), (2.0, 4.0), key=lambda pair: at[pair[1]] - at[2.0])[1]
    assert at[harder] > at[2.0]
    run(task, make_config({"steps": 60}, batch_tokens=500, learning_rate=1e-2), tmp_path)
    assert learned.value == pytest.approx(harder, abs=0.2) and 1 <= learned.value <= 4


def test_resuming_is_as_uninterrupted(tmp_path: Path) -> None:
    config = make_config({"steps": 4}, checkpoint_steps=1)
    whole = make_task("t5")
    run(whole, config, tmp_path / "whole")
    for report in train(make_task("t5"), config, folder=tmp_path / "cut", seed=SEED):
        if report.step == 3:
            break
    resumed = make_task("t5")
    run(resumed, config, tmp_path / "cut")
    assert distance(weights(resumed), weights(whole)) == 0
    assert whole.module.learned is not None and whole.module.learned.value != 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("distil.alpha={start: 0, end: 1, shape: learned}", "only a temperature can be learned"),
        ("distil.temperature={start: 1, end: 4, shape: learned, parts: 1}", "set parts to 2 or more"),
        ("distil.temperature={start: 2, end: 4, shape: learned, parts: 2}", "distil.temperature is 4 but"),
    ],
)
def test_what_cannot_be_learned_is_refused(setting: str, message: str, tmp_path: Path) -> None:
    path = project(tmp_path) / "recipe.yaml"
    with pytest.raises(ConfigError, match=message):
        read_recipe(path, (setting,))
