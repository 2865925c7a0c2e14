"""Several data sets in one recipe: whose records they are, how often each has its turn, how much it counts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from instil.core.errors import ConfigError
from instil.data.config import DataConfig
from instil.data.load import load_splits
from instil.data.mixing import mixture_of
from instil.data.prompts import Prompt
from instil.data.records import MAIN_TASK, Record, data_fingerprint
from instil.run.recipe import Recipe
from project import project, write_pairs
from project import recipe as project_recipe


def _both(folder: Path, **further: object) -> DataConfig:
    write_pairs(folder / "main.jsonl", 60)
    write_pairs(folder / "other.jsonl", 30, words=6)
    clean = {"near_duplicates": None}
    also = {"name": "other", "source": "other.jsonl", "prefix": "other: ", "clean": clean, **further}
    return DataConfig.model_validate({"source": "main.jsonl", "prefix": "main: ", "clean": clean, "also": [also]})


def test_each_source_says_its_task_and_ids_stay_apart(tmp_path: Path) -> None:
    splits, account = load_splits(_both(tmp_path), base=tmp_path)
    train = splits["train"]
    assert {record.task for record in train} == {MAIN_TASK, "other"}
    assert all(record.source.startswith(f"{record.task}: ") for record in train)
    assert len({record.id for split in splits.values() for record in split}) == sum(map(len, splits.values()))
    assert {record.task for record in splits["test"]} == {MAIN_TASK}
    assert account.splits["train of other"].kept == sum(record.task == "other" for record in train)


def test_a_source_held_out_in_one_task_is_no_lesson_of_another(tmp_path: Path) -> None:
    splits, _ = load_splits(_both(tmp_path, source="main.jsonl"), base=tmp_path)
    held_out = {record.source.removeprefix("main: ") for name in ("validation", "test") for record in splits[name]}
    lessons = {record.source.removeprefix("other: ") for record in splits["train"] if record.task == "other"}
    assert held_out and lessons and not held_out & lessons


def test_the_fingerprint_of_one_task_is_that_of_its_texts_and_a_further_task_shows() -> None:
    record = Record("1", "source", ("target",))
    lines = 'train 1\n["1", "source", ["target"]]\n'
    assert data_fingerprint({"train": [record]}) == hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert data_fingerprint({"train": [replace(record, task="other")]}) != data_fingerprint({"train": [record]})


def test_a_task_without_a_place_has_other_columns_of_the_same_records(tmp_path: Path) -> None:
    rows = [{"id": str(n), "source": f"what is {n}", "label": str(n), "why": f"since {n}"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    also = {"name": "why", "columns": {"target": "why"}, "prefix": "explain: ", "clean": {"near_duplicates": None}}
    config = {"source": "pairs.jsonl", "columns": {"target": "label"}, "clean": {"near_duplicates": None}}
    splits, _ = load_splits(DataConfig.model_validate(config | {"also": [also]}), base=tmp_path)
    by_id = {record.id: record for record in splits["train"]}
    mains = [record for record in splits["train"] if record.task == MAIN_TASK]
    assert mains and all(by_id[f"why/{record.id}"].targets == (f"since {record.id}",) for record in mains)
    assert len(by_id) == 2 * len(mains)


def test_the_student_without_a_teacher_goes_without_what_one_wrote(tmp_path: Path) -> None:
    also = {"name": "other", "source": "other.jsonl", "from_teacher": True}
    from instil.run.stages.tasks import without_teachers

    recipe = Recipe.model_validate(project_recipe(data={"also": [also]}))
    records = [Record("1", "a", ("b",)), Record("other/1", "a", ("c",), "other")]
    assert without_teachers(recipe, records) == records[:1]


@pytest.mark.parametrize(("temperature", "most", "expected"), [(1.0, 100, (50, 50)), (2.0, None, (75, 25))])
def test_rates_are_the_papers(temperature: float, most: int | None, expected: tuple[int, int]) -> None:
    # sqrt(900) : sqrt(100) is 3 : 1; with a ceiling of 100 both count alike.
    mixture = mixture_of(["a"] * 900 + ["b"] * 100, temperature=temperature, most=most)
    assert mixture is not None
    assert tuple(round(100 * count / sum(mixture.counts)) for count in mixture.counts) == expected


def test_within_a_task_each_record_comes_as_often_as_any_other() -> None:
    mixture = mixture_of(["a"] * 30 + ["b"] * 7, temperature=3.0)
    assert mixture is not None
    seen = Counter(index for epoch in range(12) for index in mixture.epoch(5, epoch))
    for members in mixture.members:
        times = [seen[index] for index in members]
        assert max(times) - min(times) <= 1
    assert mixture.epoch(5, 3) == mixture.epoch(5, 3) != mixture.epoch(6, 3)


def test_rows_of_a_task_count_by_its_weight() -> None:
    import tiny
    from instil.data.tokens import Encoded
    from instil.models.family import family_of
    from instil.objectives.fused import Mix
    from instil.train.task import RowLoss, TextTask

    model = tiny.tiny_model("llama")
    module = RowLoss(model, family_of(model, pad_id=tiny.PAD), Mix(hard=1.0)).eval()
    main = Encoded("1", (5, 6, 7), (8, 9, 1))
    other = Encoded("2", (9, 4, 7, 3), (3, 1), "other")

    def total(*examples: Encoded, weights: dict[str, float]) -> float:
        task = TextTask(module, examples, weights=weights)
        with torch.no_grad():
            return float(module(task.batch(range(len(examples)))).total)

    apart = total(main, weights={}) + 0.25 * total(other, weights={})
    assert total(main, other, weights={"other": 0.25}) == pytest.approx(apart, rel=1e-5)


def test_a_recipe_learns_both_and_is_examined_on_the_one_it_names(tmp_path: Path) -> None:
    from instil.run.pipeline import Pipeline
    from instil.run.recipe_file import read_recipe

    also = {"name": "other", "source": "other.jsonl", "prefix": "other: ", "test_share": 0.3, "weight": 0.5}
    also["clean"] = {"near_duplicates": None}
    folder = project(
        tmp_path / "both", pairs=60,
        data={"prefix": "first: ", "also": [also], "sampling": {"temperature": 2.0}},
        teacher={"teach": None}, distil={"without_teacher": False, "loop": {"budget": {"steps": 2}}},
    )  # fmt: skip
    write_pairs(folder / "other.jsonl", 30, words=6)
    pipeline = Pipeline(read_recipe(folder / "recipe.yaml", ("evaluate.task=other",)), folder)
    outputs = (pipeline.evaluation.folder / "outputs" / "student.jsonl").read_text(encoding="utf8").splitlines()
    assert outputs and all(json.loads(line)["id"].startswith("other/") for line in outputs)
    card = (pipeline.student.folder / "model" / "README.md").read_text(encoding="utf8")
    assert "'sum: first: {source}'" in card and "'other: ' before each source" in card
    lead = (pipeline.evaluation.folder / "outputs" / "lead1.jsonl").read_text(encoding="utf8").splitlines()
    assert not any(json.loads(line)["output"].startswith("other: ") for line in lead)
    with pytest.raises(ConfigError, match=r"evaluate\.task is 'third'; choose one of main, other"):
        read_recipe(folder / "recipe.yaml", ("evaluate.task=third",))


@pytest.mark.parametrize("prompt", [Prompt(text="sum: "), Prompt(kind="template", text="{source}\nA:")])
def test_a_prompt_may_hold_the_prefix_instead_of_the_source(prompt: Prompt) -> None:
    whole = prompt.before("main: ")
    assert whole.render("x", None) == prompt.render("main: x", None)  # type: ignore[arg-type]
    assert whole.separator == prompt.separator
