"""The one loop: what a step computes, when it ends, how it resumes, and what it refuses. Tiny models, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import cross_entropy

import tiny
from instil.core.errors import ConfigError, DataError, ModelError
from instil.data.batches import epoch_batches
from instil.data.tokens import Encoded
from instil.models.family import family_of
from instil.objectives.config import Weighing
from instil.objectives.fused import Mix
from instil.train import sharding
from instil.train.checkpoint import CHECKPOINT_NAME
from instil.train.config import Budget, LoopConfig
from instil.train.loop import train
from instil.train.schedule import Decay, rate_factor
from instil.train.session import read_history, run_training
from instil.train.state import StepReport
from instil.train.task import LayerDrop, RowLoss, TextTask

SEED = 11


def make_examples(count: int, *, seed: int = 0) -> list[Encoded]:
    """Uneven ones: targets of 1 to 12 tokens."""
    generator = np.random.default_rng(seed)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(int(i) for i in generator.integers(3, tiny.VOCABULARY, generator.integers(1, most)))

    return [Encoded(f"record {number}", ids(9), (*ids(12), tiny.END)) for number in range(count)]


def uniform_labels(examples: Any) -> tuple[Tensor, Tensor]:
    """Labels that give half the mass to two ids."""
    rows = sum(len(example.target_ids) for example in examples)
    return torch.tensor([[5, 9]]).repeat(rows, 1), torch.tensor([[0.3, 0.2]]).repeat(rows, 1)


AT_TWO = {2.0: uniform_labels}


def make_task(
    name: str = "llama", *, count: int = 24, dtype: torch.dtype = torch.float32,
    mix: Mix | Callable[[float], Mix] | None = None, **options: Any,
) -> TextTask:  # fmt: skip
    model = tiny.tiny_model(name).to(dtype)
    module = RowLoss(model, family_of(model, pad_id=tiny.PAD), mix or Mix())
    return TextTask(module, options.pop("examples", None) or make_examples(count), **options)


def make_config(budget: dict[str, float], **options: Any) -> LoopConfig:
    defaults = {"batch_tokens": 60, "learning_rate": 1e-3, "trackers": (), "precision": "fp32"}
    return LoopConfig(budget=Budget(**budget), **{**defaults, **options})  # type: ignore[arg-type]


def run(task: TextTask, config: LoopConfig, folder: Path, *, seed: int = SEED) -> list[StepReport]:
    return list(train(task, config, folder=folder, seed=seed))


def without_dropout(module: torch.nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0  # T5's attention has a number there.


def weights(task: TextTask) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in task.module.named_parameters()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def full_batch_loss(model: Any, examples: list[Encoded]) -> Tensor:
    """Mean cross-entropy over all target tokens of all examples: one after the other, by the model's own logits."""
    total, rows = torch.zeros((), dtype=torch.float64), 0
    for example in examples:
        ids = torch.tensor([[*example.prompt_ids, *example.target_ids]])
        logits_TV = model(input_ids=ids).logits[0, len(example.prompt_ids) - 1 : -1]
        total = total + cross_entropy(logits_TV, torch.tensor(example.target_ids), reduction="sum")
        rows += len(example.target_ids)
    return total / rows


# What a step computes


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("labelled", [False, True])
def test_eight_micro_batches_of_one_are_one_of_eight(name: str, labelled: bool, tmp_path: Path) -> None:
    found = []
    for size, accumulation in ((8, 1), (1, 8), (2, 4)):
        mix = Mix(soft=0.7, hard=0.3, temperature=2.0) if labelled else None
        task = make_task(name, count=8, dtype=torch.float64, mix=mix, labels=AT_TWO if labelled else {})
        without_dropout(task.module)
        config = make_config({"steps": 5}, batch_size=size, accumulation=accumulation, batch_tokens=1000)
        reports = run(task, config, tmp_path / f"{size}")
        found.append((weights(task), [report.loss for report in reports], [report.grad_norm for report in reports]))
    start = weights(make_task(name, dtype=torch.float64))
    assert distance(found[0][0], start) > 1e-3
    for other in found[1:]:
        assert distance(found[0][0], other[0]) < 1e-9
        assert other[1] == pytest.approx(found[0][1], abs=1e-9)
        assert other[2] == pytest.approx(found[0][2], abs=1e-9)


def test_uneven_micro_batches_follow_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Three steps of AdamW with clipping and warm-up, written out by hand from the mean over all target tokens."""
    task = make_task(count=6, dtype=torch.float64)
    config = make_config({"steps": 3}, batch_size=1, accumulation=6, weight_decay=0.1, max_grad_norm=0.5, warmup=0.4)
    by_hand = make_task(count=6, dtype=torch.float64)
    model: Any = by_hand.module.model
    trained = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=config.betas,
    )
    reports = run(task, config, tmp_path)
    for step, report in enumerate(reports):
        rate = config.learning_rate * rate_factor(step / 3, warmup=0.4, decay="linear")
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = full_batch_loss(model, make_examples(6))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        assert report.loss == pytest.approx(loss.item(), abs=1e-9)
        assert report.grad_norm == pytest.approx(float(norm), abs=1e-9) and float(norm) > 0.5
        assert report.learning_rate == pytest.approx(rate)
    assert distance(weights(task), weights(by_hand)) < 1e-9


def test_adafactor_moves_each_matrix_by_a_share_of_its_own_size(tmp_path: Path) -> None:
    """Root mean squares, as the step's length is defined by Shazeer and Stern (2018), section 8."""
    task = make_task(count=6)
    before = {name: value.detach().clone() for name, value in task.module.named_parameters()}
    run(task, make_config({"steps": 1}, optimizer="adafactor", learning_rate=0.02, warmup=0.0), tmp_path)
    moved = {
        name: float((value.detach() - before[name]).norm() / before[name].norm())
        for name, value in task.module.named_parameters()
        if value.ndim > 1 and before[name].square().mean() > 1e-5
    }
    assert len(moved) > 5
    # Embeddings of tokens that no example has stay where they are.
    assert all(0.005 < share <= 0.02 + 1e-6 for share in moved.values()), moved


def test_report_counts_rows_and_tokens(tmp_path: Path) -> None:
    task = make_task(count=10)
    reports = run(task, make_config({"epochs": 2}, batch_size=3), tmp_path)
    assert reports[-1].rows == 2 * sum(len(example.target_ids) for example in task.examples)
    assert reports[-1].tokens == 2 * sum(task.lengths)
    assert [report.step for report in reports] == list(range(1, len(reports) + 1))
    assert reports[-1].progress == 1 and reports[0].elapsed_s > 0


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_training_learns(optimizer: str, tmp_path: Path) -> None:
    task = make_task(count=4)
    settings: Any = {"optimizer": optimizer, "learning_rate": {"adamw": 1e-2, "adafactor": 5e-2}[optimizer]}
    reports = run(task, make_config({"steps": 40}, batch_tokens=500, **settings), tmp_path)
    assert reports[-1].loss < 0.3 * reports[0].loss


def test_soft_and_hard_parts_are_reported(tmp_path: Path) -> None:
    task = make_task(mix=Mix(soft=0.5, hard=0.5, temperature=2.0), labels=AT_TWO)
    report = run(task, make_config({"steps": 1}), tmp_path)[0]
    assert report.soft > 0 and report.hard > 0
    assert report.loss == pytest.approx(0.5 * 4 * report.soft + 0.5 * report.hard, rel=1e-5)


def test_frozen_weights_stay(tmp_path: Path) -> None:
    task = make_task()
    task.module.model.get_output_embeddings().weight.requires_grad_(False)  # type: ignore[operator,union-attr]
    before = weights(task)
    run(task, make_config({"steps": 2}), tmp_path)
    after = weights(task)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.lm_head.weight" not in changed and len(changed) > 10


def test_gradient_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    found = []
    for recompute in (False, True):
        task = make_task("t5", dtype=torch.float64)
        run(task, make_config({"steps": 3}, gradient_checkpointing=recompute), tmp_path / str(recompute))
        found.append(weights(task))
    assert distance(*found) < 1e-9


# When it ends


def test_budget_in_steps(tmp_path: Path) -> None:
    assert len(run(make_task(), make_config({"steps": 4}), tmp_path)) == 4


@pytest.mark.parametrize("epochs", [1, 3])
def test_budget_in_epochs_reads_every_example_that_often(epochs: int, tmp_path: Path) -> None:
    """Although the epochs are not cut into the same number of batches."""
    task = make_task(count=70)
    counts = [len(epoch_batches(task.lengths, tokens=30, seed=SEED, epoch=epoch)) for epoch in range(epochs)]
    reports = run(task, make_config({"epochs": epochs}, batch_tokens=30), tmp_path)
    assert len(reports) == sum(counts)
    assert reports[-1].tokens == epochs * sum(task.lengths)


def test_a_fraction_of_an_epoch(tmp_path: Path) -> None:
    task = make_task(count=20)
    batches = len(epoch_batches(task.lengths, tokens=60, seed=SEED, epoch=0))
    assert len(run(task, make_config({"epochs": 0.5}), tmp_path)) == math.ceil(batches / 2)


def test_budget_in_tokens_ends_with_the_step_that_reaches_it(tmp_path: Path) -> None:
    reports = run(make_task(), make_config({"tokens": 300}), tmp_path)
    assert reports[-2].tokens < 300 <= reports[-1].tokens


def test_budget_in_minutes_counts_the_steps_alone(tmp_path: Path) -> None:
    reports = run(make_task(), make_config({"minutes": 0.01}, checkpoint_steps=1), tmp_path)
    assert reports[-1].elapsed_s >= 0.6
    assert all(report.elapsed_s < 0.6 and report.progress < 1 for report in reports[:-1])


@pytest.mark.parametrize("given", [{}, {"steps": 1, "epochs": 1}])
def test_a_budget_is_exactly_one_number(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give exactly one of steps, epochs, tokens, minutes; found"):
        Budget(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decay", "middle", "late"),
    [("linear", 0.5, 0.1), ("cosine", 0.5, 0.5 * (1 + math.cos(0.9 * math.pi))), ("constant", 1.0, 1.0)],
)
def test_warm_up_and_decay(decay: Decay, middle: float, late: float) -> None:
    factors = [rate_factor(progress, warmup=0.2, decay=decay) for progress in (0.05, 0.1, 0.2, 0.6, 0.92)]
    assert factors == pytest.approx([0.25, 0.5, 1.0, middle, late])
    assert rate_factor(1.0, warmup=0.2, decay=decay) == pytest.approx(1.0 if decay == "constant" else 0.0)


def test_the_first_and_the_last_step_learn_something(tmp_path: Path) -> None:
    reports = run(make_task(), make_config({"steps": 10}, warmup=0.3), tmp_path)
    rates = [report.learning_rate for report in reports]
    assert min(rates) > 0 and rates[3] == max(rates) == pytest.approx(1e-3)
    assert rates[:4] == sorted(rates[:4]) and rates[3:] == sorted(rates[3:], reverse=True)
    assert rate_factor(0.0, warmup=0.0, decay="linear") == 1


# How it resumes


@pytest.mark.parametrize("accumulation", [1, 3])
def test_resumed_is_uninterrupted_bit_for_bit(accumulation: int, tmp_path: Path) -> None:
    """Stopped after any step, in the middle of the next, and begun anew by a process that has drawn other numbers."""
    options = {"batch_size": 3, "accumulation": accumulation, "checkpoint_steps": 1, "batch_tokens": 200}
    config = make_config({"steps": 6}, **options)
    mix = Mix(soft=0.5, hard=0.5, temperature=2.0)

    def task() -> TextTask:
        made = make_task("t5", mix=mix, labels=AT_TWO, held_out=make_examples(3, seed=5))
        assert made.module.model.config.dropout_rate == 0.1  # type: ignore[union-attr]
        return made

    whole = task()
    reports = run(whole, config, tmp_path / "whole")
    for stop in range(1, 6):
        folder = tmp_path / f"stopped at {stop}"
        for report in train(task(), config, folder=folder, seed=SEED):
            if report.step == stop + 1:  # Its checkpoint is not yet written: the one of step `stop` is the last.
                break
        torch.rand(stop)
        resumed = task()
        with torch.no_grad():
            next(resumed.module.parameters()).add_(1)
        rest = run(resumed, config, folder)
        assert distance(weights(resumed), weights(whole)) == 0
        wanted = [replace(report, elapsed_s=0) for report in reports[stop:]]
        assert [replace(report, elapsed_s=0) for report in rest] == wanted


def _cooling(progress: float) -> Mix:
    """Half of the run at temperature 2, and less and less of labels."""
    return Mix(soft=1 - progress, hard=progress, temperature=2.0 if progress < 0.5 else 1.0)


def test_schedules_are_followed_and_resumed_on(tmp_path: Path) -> None:
    def task() -> TextTask:
        return make_task(mix=_cooling, labels={2.0: uniform_labels, 1.0: uniform_labels})

    config = make_config({"steps": 6}, checkpoint_steps=1)
    whole = task()
    reports = run(whole, config, tmp_path / "whole")
    for number, report in enumerate(reports):
        mix = _cooling(number / 6)
        wanted = mix.soft * mix.temperature**2 * report.soft + mix.hard * report.hard
        assert report.loss == pytest.approx(wanted, rel=1e-5), number
    for report in train(task(), config, folder=tmp_path / "cut", seed=SEED):
        if report.step == 3:
            break
    resumed = task()
    run(resumed, config, tmp_path / "cut")
    assert distance(weights(resumed), weights(whole)) == 0


@pytest.mark.parametrize(("weigh", "weight"), [("sure", 0.3), ("unsure", 0.7)])
def test_rows_count_by_how_sure_the_teacher_is(weigh: Weighing, weight: float) -> None:
    """All rows of these labels are alike, so the whole loss is that of even rows times their weight."""
    even, weighed = make_task(labels=AT_TWO), make_task(labels=AT_TWO)
    mix = Mix(soft=0.5, hard=0.5, temperature=2.0)
    losses = []
    for task, how in ((even, "even"), (weighed, weigh)):
        module = RowLoss(task.module.model, task.module.family, mix, how)  # type: ignore[arg-type]
        losses.append(float(module(task.batch([0, 1, 2])).total))
    assert losses[1] == pytest.approx(weight * losses[0], rel=1e-6)


def test_labels_at_another_temperature_are_not_used(tmp_path: Path) -> None:
    task = make_task(mix=Mix(soft=1.0, hard=0.0, temperature=3.0), labels=AT_TWO)
    with pytest.raises(ValueError, match="no labels were given"):
        run(task, make_config({"steps": 1}), tmp_path)


def test_dropout_is_on(tmp_path: Path) -> None:
    """Else the test above would prove less than it says."""
    losses = {run(make_task("t5"), make_config({"steps": 1}), tmp_path / f"{n}", seed=n)[0].loss for n in (1, 2)}
    assert len(losses) == 2


def test_a_finished_run_does_not_go_on(tmp_path: Path) -> None:
    config = make_config({"steps": 3}, checkpoint_steps=3)
    task = make_task()
    run(task, config, tmp_path)
    again = make_task()
    assert run(again, config, tmp_path) == []
    assert distance(weights(again), weights(task)) == 0


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    found = []
    for folder in ("one", "other"):
        task = make_task("t5")
        run(task, make_config({"steps": 3}), tmp_path / folder)
        found.append(weights(task))
    assert distance(*found) == 0


def test_session_keeps_one_history_over_a_break(tmp_path: Path) -> None:
    config = make_config({"steps": 6}, checkpoint_steps=2)
    heard: list[float] = []

    def advance(done: float, remark: str = "") -> None:
        heard.append(done)
        if len(heard) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(make_task(), config, folder=tmp_path, seed=SEED, advance=advance)
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2, 3, 4]
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    result = run_training(make_task(), config, folder=tmp_path, seed=SEED)
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert result["step"] == 6
    assert heard == pytest.approx([100 / 6 * step for step in range(1, 5)])


def test_stages_of_one_process_may_differ_in_precision(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16", "fp32"):
        reports = run(make_task(), make_config({"steps": 1}, precision=precision), tmp_path / precision)
        assert math.isfinite(reports[0].loss)


# Validation, trackers


def test_validation_is_the_plain_loss_and_changes_nothing(tmp_path: Path) -> None:
    held_out = make_examples(7, seed=3)
    found = []
    for validate in (None, 2):
        task = make_task("t5", held_out=held_out)
        reports = run(task, make_config({"steps": 4}, validate_steps=validate), tmp_path / str(validate))
        found.append(weights(task))
    assert distance(*found) == 0
    assert [report.validation_loss is None for report in reports] == [True, False, True, False]
    assert task.module.training
    model: Any = task.module.model.eval()
    total, rows = 0.0, 0
    for example in held_out:
        labels = torch.tensor([example.target_ids])
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([example.prompt_ids]), labels=labels).loss) * labels.numel()
        rows += labels.numel()
    assert reports[-1].validation_loss == pytest.approx(total / rows, rel=1e-4)


def test_tensorboard_gets_every_step(tmp_path: Path) -> None:
    run(make_task(), make_config({"steps": 2}, trackers=("tensorboard",)), tmp_path)
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))


# What it refuses


def test_a_loss_that_is_no_number_is_one_line_and_no_checkpoint(tmp_path: Path) -> None:
    task = make_task()
    with torch.no_grad():
        next(task.module.parameters()).fill_(math.inf)
    before = weights(task)
    with pytest.raises(ModelError, match=r"the loss is nan at step 1; lower learning_rate \(now 0.001\)") as caught:
        run(task, make_config({"steps": 3}, checkpoint_steps=1), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / CHECKPOINT_NAME).exists()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(task).items())


def test_a_gradient_that_is_no_number_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    task = make_task()
    before = weights(task)
    next(task.module.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(ModelError, match="the gradient's norm is nan at step 1; lower learning_rate"):
        run(task, make_config({"steps": 3}, checkpoint_steps=1), tmp_path)
    assert distance(weights(task), before) == 0 and not (tmp_path / CHECKPOINT_NAME).exists()


def test_a_rate_that_is_too_high_never_spoils_the_checkpoint(tmp_path: Path) -> None:
    config = make_config({"steps": 50}, learning_rate=1e30, checkpoint_steps=1, warmup=0.0)
    with pytest.raises(ModelError, match="lower learning_rate"):
        run(make_task(), config, tmp_path)


def test_no_examples_are_refused(tmp_path: Path) -> None:
    task = make_task()
    task.examples = []
    with pytest.raises(DataError, match="no examples to train on"):
        run(task, make_config({"steps": 1}), tmp_path)


def test_a_generator_may_be_left_at_any_step(tmp_path: Path) -> None:
    """A notebook that stops looking leaves nothing behind that hinders the next run."""
    reports: Iterator[StepReport] = train(make_task(), make_config({"steps": 9}), folder=tmp_path, seed=SEED)
    assert next(reports).step == 1
    reports.close()  # type: ignore[attr-defined]
    assert len(run(make_task(), make_config({"steps": 2}), tmp_path)) == 2


# Layer drop


def test_layer_drop_teaches_the_shorter_model_and_resumes_as_uninterrupted(tmp_path: Path) -> None:
    def task_of() -> TextTask:
        task = make_task(count=24)
        task.drop = LayerDrop(kept=(0,), share=0.5, seed=SEED)
        return task

    config = make_config({"steps": 12}, batch_size=2, checkpoint_steps=4)
    task = task_of()
    before = weights(task)
    passed = [task.batch([first, first + 1]).kept for first in range(0, 24, 2)]
    assert set(passed) == {None, (0,)} and passed == [task.batch([n, n + 1]).kept for n in range(0, 24, 2)]
    short = next(task.batch([n, n + 1]) for n in range(0, 24, 2) if passed[n // 2])
    task.module(short).total.backward()
    untouched = [name for name, p in task.module.named_parameters() if p.grad is None]
    assert untouched and all(".layers.1." in name for name in untouched)
    task.module.zero_grad()
    run(task, config, tmp_path / "whole")
    assert all(not torch.equal(tensor, before[name]) for name, tensor in weights(task).items())
    for _ in zip(range(6), train(task_of(), config, folder=tmp_path / "cut", seed=SEED), strict=False):
        pass
    resumed = task_of()
    run(resumed, config, tmp_path / "cut")
    assert all(torch.equal(tensor, weights(task)[name]) for name, tensor in weights(resumed).items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"optimizer": "adafactor"}, "set optimizer: adamw"), ({"precision": "fp16"}, "set precision: bf16 or fp32")],
)
def test_what_no_shared_model_can_learn_with_is_refused_in_the_recipe(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        make_config({"steps": 1}, parallel="fsdp", **settings)


def test_what_processes_that_share_a_model_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="set precision: fp32"):
        sharding.require_able("fp16", alike=True)
    with pytest.raises(ConfigError, match="leave out on_policy"):
        sharding.require_able("bf16", alike=False)
    sharding.require_able("no", alike=True)


def test_a_task_that_drops_layers_is_not_alike_everywhere() -> None:
    task = make_task()
    assert task.alike
    task.drop = LayerDrop(kept=(0,), share=0.5, seed=0)
    assert not task.alike
