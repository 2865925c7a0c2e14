"""On-policy distillation and a student that is its own teacher: written out plainly, resumed, shared, refused."""

from __future__ import annotations

import copy
import json
import signal
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from command import Command, instil
from instil.core.fingerprint import fingerprint
from instil.data.batches import Curriculum
from instil.data.mixing import mixture_of
from instil.data.prompts import Prompt
from instil.labels.teacher import Teacher
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.objectives.config import DIVERGENCES, Divergence
from instil.objectives.fused import Mix
from instil.objectives.schedules import Schedule
from instil.run.recipe import Recipe
from instil.run.stages.live import live_task
from instil.train.live import Average, LiveTask, Mixture, OnPolicy, dense_labels
from instil.train.loop import train
from instil.train.task import LayerDrop, RowLoss, TextTask
from project import finished, models_folder, project, recipe
from project import weights as model_hash
from test_loop import AT_TWO, SEED, distance, make_config, make_examples, run, weights, without_dropout

LONGEST = 6
SOFT = Mix(soft=1.0, hard=0.0)


def on_policy(student: Any, share: float | Schedule = 1.0, sample: float = 1.0) -> OnPolicy:
    """The student `student` writes up to `LONGEST` tokens."""
    kind = "encoder-decoder" if student.config.is_encoder_decoder else "decoder-only"
    writer = TransformersGenerator(student, tiny.tiny_tokenizer(kind), Prompt(), name="", max_source_tokens=None)

    def draw(prompts: Any, seed: int) -> list[list[int]]:
        return writer.draw(prompts, max_new_tokens=LONGEST, sample=sample, seed=seed)

    share = share if isinstance(share, Schedule) else Schedule.constant(share)
    return OnPolicy(share=share, draw=draw, longest=LONGEST, seed=SEED)


def make_task(
    name: str = "llama", share: float | Schedule = 1.0, *, mix: Mix = SOFT, count: int = 24, sample: float = 1.0,
    dtype: torch.dtype = torch.float32, **options: Any,
) -> LiveTask:  # fmt: skip
    """A student and, from other random weights, its teacher."""
    student, theirs = tiny.tiny_model(name, seed=1).to(dtype), tiny.tiny_model(name).to(dtype).requires_grad_(False)
    teacher = Teacher(model=theirs, family=family_of(theirs, pad_id=tiny.PAD))
    module = RowLoss(student, family_of(student, pad_id=tiny.PAD), mix)
    return LiveTask(
        module, make_examples(count), score=lambda examples: dense_labels(teacher.rows(examples)),
        own=on_policy(student, share, sample), **options,
    )  # fmt: skip


def own_loss(kind: Divergence, p_V: torch.Tensor, q_V: torch.Tensor) -> torch.Tensor:
    """The definitions once more, for distributions without zeros."""
    middle_V = 0.5 * (p_V + q_V)

    def kl(a_V: torch.Tensor, b_V: torch.Tensor) -> torch.Tensor:
        return (a_V * (a_V / b_V).log()).sum()

    match kind:
        case "forward_kl":
            return kl(p_V, q_V)
        case "reverse_kl":
            return kl(q_V, p_V)
        case "jsd":
            return 0.5 * kl(p_V, middle_V) + 0.5 * kl(q_V, middle_V)
        case "skew_kl":
            return kl(p_V, middle_V)
        case "skew_reverse_kl":
            return kl(q_V, middle_V)
        case "total_variation":
            return 0.5 * (p_V - q_V).abs().sum()


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_step_is_what_it_says(name: str, kind: Divergence, tmp_path: Path) -> None:
    """The student's own texts, drawn by transformers from the same seed, one example after the other through both
    models, the divergence from its definition, all in fp64."""
    task = make_task(name, mix=Mix(soft=1.0, hard=0.0, divergence=kind), dtype=torch.float64, count=4)
    without_dropout(task.module)
    student: Any = copy.deepcopy(task.module.model)
    teacher = tiny.tiny_model(name).double()
    (report,) = run(task, make_config({"steps": 1}, batch_size=2, batch_tokens=500), tmp_path)
    from instil.data.batches import epoch_batches

    first = epoch_batches(task.lengths, tokens=500, seed=SEED, epoch=0, most=2)[0]
    examples = [task.examples[index] for index in first]
    total, rows = torch.zeros((), dtype=torch.float64), 0
    for example, target in zip(examples, _drawn(student, examples), strict=True):
        prompt, ids = torch.tensor([example.prompt_ids]), torch.tensor([target])
        if name == "t5":
            started = torch.cat([torch.tensor([[tiny.PAD]]), ids[:, :-1]], 1)
            logits = [m(input_ids=prompt, decoder_input_ids=started).logits[0] for m in (teacher, student)]
        else:
            whole = torch.cat([prompt, ids], 1)
            logits = [m(input_ids=whole).logits[0, prompt.shape[1] - 1 : -1] for m in (teacher, student)]
        p_TV, q_TV = (each.softmax(-1) for each in logits)
        total = total + sum(own_loss(kind, p_V.detach(), q_V) for p_V, q_V in zip(p_TV, q_TV, strict=True))
        rows += len(target)
    loss = total / rows
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in student.parameters() if p.grad is not None]).norm()
    assert report.rows == rows
    assert report.loss == pytest.approx(loss.item(), rel=1e-6)
    assert report.grad_norm == pytest.approx(norm.item(), rel=1e-6)


def _drawn(student: Any, examples: Any) -> list[list[int]]:
    """What transformers itself draws for the first micro-batch of the first step."""
    seq2seq = student.config.is_encoder_decoder
    tokenizer = tiny.tiny_tokenizer("encoder-decoder" if seq2seq else "decoder-only")
    tokenizer.padding_side = "right" if seq2seq else "left"
    batch = tokenizer.pad({"input_ids": [list(example.prompt_ids) for example in examples]}, return_tensors="pt")
    torch.manual_seed(int(fingerprint(SEED, 0, [example.id for example in examples]), 16) % (1 << 31))
    found = student.generate(**batch, do_sample=True, top_k=0, temperature=1.0, max_new_tokens=LONGEST)
    texts = found[:, 1 if seq2seq else batch["input_ids"].shape[1] :].tolist()
    return [ids[: ids.index(tiny.END) + 1] if tiny.END in ids else ids for ids in texts]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_eight_micro_batches_of_one_are_one_of_eight(name: str, tmp_path: Path) -> None:
    """Drawn so cold that only the likeliest token is: then it does not matter which texts are drawn together."""
    found = []
    for size, accumulation in ((8, 1), (1, 8), (2, 4)):
        task = make_task(name, count=8, dtype=torch.float64, sample=1e-6)
        without_dropout(task.module)
        config = make_config({"steps": 3}, batch_size=size, accumulation=accumulation, batch_tokens=1000)
        reports = run(task, config, tmp_path / f"{size}")
        found.append((weights(task), [report.loss for report in reports], reports[-1].rows))
    for other in found[1:]:
        assert distance(found[0][0], other[0]) < 1e-9
        assert other[1] == pytest.approx(found[0][1], abs=1e-9)
        assert other[2] == found[0][2]


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_resumed_is_uninterrupted_bit_for_bit(name: str, accumulation: int, tmp_path: Path) -> None:
    """With stored labels for the other share, which falls while it runs, and dropout."""
    options = {"batch_size": 3, "accumulation": accumulation, "checkpoint_steps": 1, "batch_tokens": 200}
    config = make_config({"steps": 6}, **options)
    mix = Mix(soft=0.5, hard=0.5, temperature=2.0)

    def task() -> LiveTask:
        return make_task(name, Schedule(start=0.9, end=0.3), mix=mix, labels=AT_TWO)

    whole = task()
    reports = run(whole, config, tmp_path / "whole")
    for report in train(task(), config, folder=tmp_path / "cut", seed=SEED):
        if report.step == 4:
            break
    torch.rand(5)
    resumed = task()
    rest = run(resumed, config, tmp_path / "cut")
    assert distance(weights(resumed), weights(whole)) == 0
    assert [replace(each, elapsed_s=0) for each in rest] == [replace(each, elapsed_s=0) for each in reports[3:]]
    assert 0 < reports[-1].renewed_s < reports[-1].elapsed_s


def test_the_share_of_batches_is_the_students(tmp_path: Path) -> None:
    task = make_task(share=Schedule(start=0.0, end=1.0, shape="steps", parts=2), mix=Mix(soft=0.4, hard=0.6))
    task.labels = {1.0: AT_TWO[2.0]}
    own = []
    for step in range(12):
        task.at(step / 12)
        (batch,) = task.renew([task.batch([step % 8, 9])], step)
        own.append(batch.own)
        assert batch.labels and (batch.rows <= 2 * LONGEST or not batch.own)
    assert not any(own[:6]) and all(own[6:])
    half = on_policy(task.module.model, 0.5)
    drawn = [half.wants(task.examples[:2], step, 0.0) for step in range(200)]
    assert 70 < sum(drawn) < 130
    assert drawn == [on_policy(task.module.model, 0.5).wants(task.examples[:2], step, 0.0) for step in range(200)]


def test_batches_leave_room_for_what_is_written() -> None:
    task = make_task(count=40)
    assert all(
        length == len(each.prompt_ids) + max(LONGEST, len(each.target_ids))
        for length, each in zip(task.lengths, task.examples, strict=True)
    )


def test_training_on_its_own_texts_brings_the_student_to_its_teacher(tmp_path: Path) -> None:
    task = make_task(count=6)
    reports = run(task, make_config({"steps": 60}, batch_tokens=500, learning_rate=1e-2), tmp_path)
    assert sum(each.soft for each in reports[-5:]) < 0.5 * sum(each.soft for each in reports[:5])


# Several teachers


@pytest.mark.parametrize("by_loss", [False, True])
def test_teachers_that_read_together_are_weighed_by_task_and_by_their_loss(by_loss: bool) -> None:
    """One example after the other through each model: the target of the data for the weights, the text that was written
    for the rows. A teacher without a share in any of the examples is not asked."""
    models = [tiny.tiny_model(name).double().requires_grad_(False) for name in ("llama", "qwen3", "mistral")]
    weights = {"main": (0.5, 0.2, 0.3), "other": (0.6, 0.4, 0.0)}
    given = [replace(each, task=("main", "other")[number % 2]) for number, each in enumerate(make_examples(6))]
    written = [replace(each, target_ids=(*each.target_ids[1:], 7, 9)) for each in given]
    teachers = [Teacher(model=each, family=family_of(each, pad_id=tiny.PAD), batch_tokens=40) for each in models]
    mixture = Mixture(teachers=teachers, weights=weights, given={each.id: each for each in given} if by_loss else None)
    found = mixture.score(written)
    assert len(found.teachers) == 3 and len(mixture.score(written[1::2]).teachers) == 2
    rows = []
    for data, text in zip(given, written, strict=True):
        shares = torch.tensor(weights[data.task], dtype=torch.float64)
        if by_loss:
            logits = [_alone(model, data) for model in models]
            target = torch.tensor(data.target_ids)
            likely = torch.stack([each.log_softmax(-1)[range(len(target)), target].mean().exp() for each in logits])
            shares = shares * likely / (shares * likely).sum()
        rows.append(sum(w * _alone(model, text).softmax(-1) for w, model in zip(shares, models, strict=True)))
    wanted_NV = torch.cat(rows)
    probs_NV = sum(
        found.weight_NS[:, number, None] * each.probabilities(slice(None), wanted_NV.shape[1], 1.0)
        for number, each in enumerate(found.teachers)
    )
    torch.testing.assert_close(probs_NV, wanted_NV, atol=1e-7, rtol=1e-6)


def _alone(model: Any, example: Any) -> torch.Tensor:
    """The logits at the rows of one example, from the model itself."""
    whole = torch.tensor([[*example.prompt_ids, *example.target_ids]])
    return model(input_ids=whole).logits[0, len(example.prompt_ids) - 1 : -1]


def test_a_student_that_writes_goes_to_the_mixture_of_its_teachers(tmp_path: Path) -> None:
    task = make_task(count=6)
    models = [tiny.tiny_model(name).requires_grad_(False) for name in ("llama", "qwen3")]
    teachers = [Teacher(model=each, family=family_of(each, pad_id=tiny.PAD)) for each in models]
    task.score = Mixture(teachers=teachers, weights={"main": (0.5, 0.5)}).score
    reports = run(task, make_config({"steps": 60}, batch_tokens=500, learning_rate=1e-2), tmp_path)
    assert sum(each.soft for each in reports[-5:]) < 0.5 * sum(each.soft for each in reports[:5])


# A student that is its own teacher


def own_teacher(name: str = "llama", *, ema: float = 0.5, every: int = 1, mix: Mix | None = None) -> LiveTask:
    student = tiny.tiny_model(name, seed=1)
    module = RowLoss(student, family_of(student, pad_id=tiny.PAD), mix or Mix(soft=0.5, hard=0.5))
    module.average = Average(student, module.family, ema=ema, every=every)
    return LiveTask(module, make_examples(24), score=module.average.score, own_alone=False)


@pytest.mark.parametrize(("ema", "every"), [(0.5, 1), (0.9, 2), (0.0, 3)])
def test_the_average_is_that_of_the_past_weights(ema: float, every: int, tmp_path: Path) -> None:
    task = own_teacher(ema=ema, every=every)
    wanted = {name: p.detach().double() for name, p in task.module.model.named_parameters()}
    for step, _ in enumerate(train(task, make_config({"steps": 6}), folder=tmp_path, seed=SEED), start=1):
        kept = {name: p.detach().clone() for name, p in task.module.average.model.named_parameters()}  # type: ignore[union-attr,operator]
        for name, value in wanted.items():
            torch.testing.assert_close(kept[name].double(), value, atol=1e-6, rtol=1e-5)
        if step % every == 0:  # Before the next step, it takes over its share.
            for name, parameter in task.module.model.named_parameters():
                wanted[name] = ema * wanted[name] + (1 - ema) * parameter.detach().double()
    assert not any(parameter.requires_grad for parameter in task.module.average.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_student_that_is_its_own_teacher_resumes_as_uninterrupted(name: str, tmp_path: Path) -> None:
    config = make_config({"steps": 6}, checkpoint_steps=1, learning_rate=1e-2)
    whole = own_teacher(name, ema=0.7)
    reports = run(whole, config, tmp_path / "whole")
    assert reports[0].soft == pytest.approx(0, abs=1e-6) or name == "t5", "at first it is what it was; T5 has dropout"
    assert reports[-1].soft > 1e-4
    for report in train(own_teacher(name, ema=0.7), config, folder=tmp_path / "cut", seed=SEED):
        if report.step == 4:
            break
    resumed = own_teacher(name, ema=0.7)
    run(resumed, config, tmp_path / "cut")
    assert distance(weights(resumed), weights(whole)) == 0


# In a recipe


@pytest.mark.parametrize("teaches", ["on_policy", "self_teacher"])
def test_live_labels_forget_nothing_that_the_task_was_told(teaches: str) -> None:
    """Curriculum, mixture, weights of tasks, layers that are dropped; texts are drawn by the student's own seed."""
    both = {"on_policy": {"share": 1}, "self_teacher": {"ema": 0.5}}
    sections = both if teaches == "on_policy" else {teaches: both[teaches]}
    parsed = Recipe.model_validate(recipe("llama", student_seed=7, distil={"temperature": 1.0, **sections}))
    assert parsed.distil is not None
    student = tiny.tiny_model("llama")
    examples = [replace(each, task=("main", "other")[number % 2]) for number, each in enumerate(make_examples(8))]
    task = TextTask(
        RowLoss(student, family_of(student, pad_id=tiny.PAD), SOFT), examples, examples[:1], AT_TWO, 300,
        LayerDrop((0,), 1.0, SEED), mixture_of([each.task for each in examples], temperature=2.0), {"other": 0.5},
        Curriculum(order=tuple(range(8)), shares=(0.25,)),
    )  # fmt: skip
    live = live_task(parsed, parsed.distil, task, tiny.tiny_tokenizer("decoder-only"), None)
    assert isinstance(live, LiveTask)
    assert {each.name: getattr(live, each.name) for each in fields(task)} == {
        each.name: getattr(task, each.name) for each in fields(task)
    }
    (batch,) = live.renew([live.batch([0, 1])], 0)
    assert batch.kept == (0,) and batch.own == (teaches == "on_policy")
    assert batch.weight_N is not None and set(batch.weight_N.tolist()) == {1.0, 0.5}
    assert live.own is None or live.own.seed == 7


PLAIN: dict[str, Any] = {"teacher": {"teach": None}, "labels": {"targets": "gold", "temperatures": [1.0]}}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_recipe_lets_the_student_write_and_says_what_it_cost(kind: str, tmp_path: Path) -> None:
    distil = {"temperature": 1.0, "divergence": "jsd", "on_policy": {"share": 1}, "without_teacher": False}
    folder = project(tmp_path, kind, pairs=60, **PLAIN, distil=distil)
    ended = instil("distil", "recipe.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)["result"]
    assert 0 < result["writing_share"] < 1 and "of the time the student wrote" in ended.err
    assert result["soft"] > 0
    store = next(folder.glob("runs/*/label-*")) / "store"
    assert not store.exists(), "nobody reads stored labels"
    assert "written by the student itself" in (finished(folder, "distil") / "model" / "README.md").read_text()
    plain = instil("distil", "recipe.yaml", "--set", "distil.on_policy=null", cwd=folder)
    assert plain.code == 0 and "distil: done" in plain.err, plain.err


@pytest.mark.timeout(300)
def test_a_student_that_writes_sees_easy_examples_first(tmp_path: Path) -> None:
    loop = {"budget": {"steps": None, "epochs": 1}, "batch_tokens": 256, "trackers": []}
    distil = {
        "temperature": 1.0, "on_policy": {"share": 0}, "without_teacher": False, "loop": loop,
        "curriculum": {"start": 0.25, "epochs": 1},
    }  # fmt: skip
    folder = project(tmp_path, "llama", pairs=60, **PLAIN, distil=distil)
    rows = []
    for curriculum in ((), ("--set", "distil.curriculum=null")):
        ended = instil("distil", "recipe.yaml", "--json", *curriculum, cwd=folder)
        assert ended.code == 0, ended.err
        rows.append(json.loads(ended.out)["result"]["rows"])
    assert rows[0] < 0.5 * rows[1]


@pytest.mark.timeout(300)
def test_killed_on_policy_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    distil = {"temperature": 1.0, "on_policy": {"share": 0.5}, "without_teacher": False}
    loop = {"budget": {"steps": 30}, "batch_tokens": 256, "checkpoint_steps": 2, "trackers": []}
    folders = [project(tmp_path / n, "llama", pairs=60, **PLAIN, distil=distil | {"loop": loop}) for n in ("a", "b")]
    assert instil("distil", "recipe.yaml", cwd=folders[0]).code == 0
    command = Command("distil", "recipe.yaml", cwd=folders[1])
    while not list(folders[1].glob("runs/*/distil-*.part/checkpoint/state.json")) and command.poll() is None:
        time.sleep(0.01)
    command.signal(signal.SIGKILL)
    command.end()
    ended = instil("distil", "recipe.yaml", cwd=folders[1])
    assert ended.code == 0 and "distil: going on in" in ended.err, ended.err
    assert model_hash(folders[0]) == model_hash(folders[1])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            ("teacher.served={url: http://localhost/v1}", "distil.temperature=2"),
            "served teacher tells its first ids at temperature 1; leave distil.temperature out",
        ),
        (("student={scratch: {layers: 1, tokenizer: {train: 300}}}",), "without on_policy"),
        (("student.vocabulary={tokens: used}",), "leave student.vocabulary out"),
        (("distil.weigh=sure",), "weigh reads stored labels"),
        (("distil.on_policy={share: 2}",), "a share lies between 0 and 1"),
        (("distil.on_policy={shares: 1}",), "did you mean 'share'"),
        (("distil.self_teacher={ema: 1}",), "distil.self_teacher.ema: input should be less than 1"),
    ],
)
def test_where_no_teacher_can_score_a_line_says_so(changes: tuple[str, ...], says: str, tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=20, **PLAIN, distil={"temperature": 1.0, "on_policy": {"share": 1}})
    ended = instil("distil", "recipe.yaml", *(part for each in changes for part in ("--set", each)), cwd=folder)
    assert ended.code == 2 and says in ended.err, ended.err


@pytest.mark.timeout(300)
def test_a_student_of_its_own_must_share_its_teachers_tokens_and_kind(tmp_path: Path) -> None:
    distil = {"temperature": 1.0, "on_policy": {"share": 1}, "without_teacher": False}
    folder = project(tmp_path, "llama", pairs=20, **PLAIN, distil=distil)
    own = ("--set", f"student={{model: {models_folder() / 'qwen3'}}}")
    assert instil("distil", "recipe.yaml", *own, cwd=folder).code == 0
    other = ("--set", f"student={{model: {models_folder() / 't5'}}}")
    ended = instil("distil", "recipe.yaml", *other, cwd=folder)
    assert ended.code == 2 and ("tokens" in ended.said or "the student is encoder-decoder" in ended.said), ended.err
