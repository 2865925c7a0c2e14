"""Which of a teacher's outputs become targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer

import tiny
from instil.core.errors import ConfigError, LabelError
from instil.data.tokens import Encoded
from instil.labels.scores import mean_log_probs
from instil.labels.teacher import Teacher
from instil.models.family import family_of
from instil.run.commands.labels import verify
from instil.run.pipeline import Pipeline
from instil.run.recipe_file import read_recipe
from instil.run.stages.keeping import Candidate, choose
from instil.run.stages.targets import CANDIDATES_NAME, TARGETS_NAME
from project import project

_CANDIDATES = [
    Candidate("a", "1", 10.0),
    Candidate("a", "2", 30.0),
    Candidate("b", "3", 20.0),
    Candidate("b", "4", 5.0),
]


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ({"least": 10.0}, ["2", "3", "1"]),
        ({"best": 1}, ["2", "3"]),
        ({"best": 1, "least": 25.0}, ["2"]),
        ({"share": 0.5}, ["2", "3"]),
        ({"share": 0.01}, ["2"]),
    ],
)
def test_the_best_stay(how: dict[str, float], left: list[str]) -> None:
    kept = choose(_CANDIDATES, **{"least": None, "best": None, "share": None, **how})  # type: ignore[arg-type]
    assert [one.text for one in kept] == left


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_scores_are_those_of_the_whole_distribution(name: str) -> None:
    model = tiny.tiny_model(name)
    teacher = Teacher(model=model, family=family_of(model, pad_id=tiny.PAD), batch_tokens=16)
    examples = [Encoded(str(n), tuple(range(5, 9 + n)), (*range(20, 23 + n), 1)) for n in range(4)]
    for example, score in zip(examples, mean_log_probs(teacher, examples), strict=True):
        prompt, target = (torch.tensor([ids]) for ids in (example.prompt_ids, example.target_ids))
        if name == "t5":
            logits = model(input_ids=prompt, labels=target).logits[0]
        else:
            logits = model(input_ids=torch.cat([prompt, target], 1)).logits[0, prompt.shape[1] - 1 : -1]
        dense = logits[:, : tiny.PADDED_VOCABULARY].double().log_softmax(-1).gather(1, target[0][:, None]).mean()
        assert score == pytest.approx(float(dense.detach()), abs=1e-5)


def test_a_recipe_learns_from_the_kept_ones_alone(tmp_path: Path) -> None:
    labels = {"targets": "teacher", "candidates": 3, "sample": 1.0, "keep": {"by": "score", "best": 1}}
    folder = project(tmp_path / "p", "llama", pairs=30, teacher={"teach": None}, labels=labels)
    made = Pipeline(read_recipe(folder / "recipe.yaml"), folder).labels
    assert made.artifact is not None
    lines = {name: (made.artifact.folder / name).read_text().count("\n") for name in (TARGETS_NAME, CANDIDATES_NAME)}
    assert 0 < lines[TARGETS_NAME] < lines[CANDIDATES_NAME]
    assert all("#" not in record.id for record in made.records)


def test_keeping_none_is_said(tmp_path: Path) -> None:
    labels = {"targets": "teacher", "keep": {"by": "rouge", "least": 100.0}}
    folder = project(tmp_path / "p", "llama", pairs=30, teacher={"teach": None}, labels=labels)
    with pytest.raises(LabelError, match=r"labels\.keep leaves none of \d+ outputs"):
        _ = Pipeline(read_recipe(folder / "recipe.yaml"), folder).labels


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", pairs=30)
    for change, reason in (
        ("labels.keep={by: rouge}", "nothing says what stays"),
        ("labels.keep={by: score, least: 3}", "a mean log-probability, below 0"),
        ("labels.keep={by: rouge, best: 1}", "set targets: teacher"),
    ):
        with pytest.raises(ConfigError, match=reason):
            read_recipe(folder / "recipe.yaml", (change,))


def test_damaged_targets_of_a_named_store_are_one_line_and_verify_finds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project(
        tmp_path, "llama", pairs=30, teacher={"teach": None}, limits={"source": 40, "target": 8},
        distil={"without_teacher": False},
    )  # fmt: skip
    place = Pipeline(read_recipe(folder / "recipe.yaml"), folder).labels.artifact.folder  # type: ignore[union-attr]
    named = read_recipe(folder / "recipe.yaml", (f"labels.store={place}",))
    verify(place)
    path = place / TARGETS_NAME
    lines = path.read_text(encoding="utf8").split("\n")
    for line in (lines[1][:-5], "[]", '{"id": 1, "target": "a"}'):
        path.write_text("\n".join([lines[0], line, *lines[2:]]), encoding="utf8")
        with pytest.raises(LabelError, match=rf"{TARGETS_NAME}:2: damaged, .*; delete the file and run"):
            _ = Pipeline(named, folder).labels
        with pytest.raises(typer.Exit):
            verify(place / "store")
    path.unlink()
    capsys.readouterr()
    with pytest.raises(typer.Exit):
        verify(place)
    said = capsys.readouterr().out
    assert f"{TARGETS_NAME}: missing" in said and "1 of 1 shards are whole" in said
