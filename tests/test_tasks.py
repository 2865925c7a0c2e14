"""Several data sets in one recipe: whose records they are, how often each has its turn, how much it counts."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from command import instil
from instil.core.errors import ConfigError, DataError
from instil.core.fingerprint import fingerprint
from instil.core.manifest import read_manifest
from instil.data.config import DataConfig
from instil.data.load import load_splits
from instil.data.mixing import mixture_of
from instil.data.prompts import Prompt
from instil.data.records import MAIN_TASK, Record, data_fingerprint
from instil.evaluate.baselines import NearestNeighbour
from instil.evaluate.outputs import load_outputs
from instil.run.pipeline import Pipeline
from instil.run.recipe import Recipe, resolved_yaml
from instil.run.recipe_file import read_recipe
from instil.run.sections.evaluate import EvaluateConfig
from instil.run.stages.data import read_records
from instil.run.stages.tasks import examined_records
from project import finished, project, write_pairs
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


def _examined_twice(folder: Path) -> Path:
    """A project whose students are examined on the main task and on `other`."""
    also = {"name": "other", "source": "other.jsonl", "prefix": "other: ", "test_share": 0.3, "from_teacher": True}
    also["clean"] = {"near_duplicates": None}
    project(
        folder, "llama", pairs=60, data={"also": [also]}, teacher={"teach": None},
        labels={"targets": "gold"}, distil={"loop": {"budget": {"steps": 2}}},
        evaluate={
            "metrics": ["rougeLsum"],
            "also": [{"task": "other", "metrics": ["bleu", "accuracy"], "answer": "(.+)", "items": 5}],
            "prompted": [{"name": "asked", "of": "student", "shots": 1}, {"name": "ours", "prompt": {"text": "Say: "}}],
        },
    )  # fmt: skip
    write_pairs(folder / "other.jsonl", 30, words=6)
    return folder


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Such a project after `instil evaluate`, and what that printed."""
    folder = _examined_twice(tmp_path_factory.mktemp("tasks") / "both")
    ended = instil("evaluate", "recipe.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    return folder, json.loads(ended.out)


def test_each_further_task_is_examined_by_its_own_metrics(examined: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = examined
    assert summary == json.loads((folder / "runs/llama/summary.json").read_text(encoding="utf8")) | {
        key: summary[key] for key in ("report", "next")
    }
    main, other = summary, summary["tasks"]["other"]
    assert (main["n"], other["n"]) == (6, 5)
    assert "rougeLsum" in main["student"]["metrics"] and "bleu" not in main["student"]["metrics"]
    assert {"bleu", "accuracy"} <= set(other["student"]["metrics"]) and "rougeLsum" not in other["student"]["metrics"]
    assert other["student"]["difference"] is not None and other["student"]["p_value"] is not None
    assert read_manifest(finished(folder, "evaluate")).result["tasks"]["other"] == other
    assert main["student"]["latency_ms_p50"] and other["student"]["latency_ms_p50"] is None
    assert "ours" in main and "asked" in other and "ours" not in other, "that prompt is the main task's"
    assert "did not learn task other" in other["remarks"][-1] and "did not learn" not in str(main["remarks"])


def test_baselines_of_a_further_task_are_its_own_and_do_not_see_its_prefix(
    examined: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = examined
    outputs = finished(folder, "evaluate") / "tasks" / "other" / "outputs"
    lead, neighbours = (load_outputs(outputs / f"{name}.jsonl") for name in ("lead1", "nearest_neighbour"))
    assert lead and all(each.id.startswith("other/") and each.source.startswith("other: ") for each in lead)
    assert not any(each.output.startswith("other: ") for each in lead)
    train = read_records(finished(folder, "data") / "train.jsonl")
    nearest = NearestNeighbour(
        [replace(each, source=each.source.removeprefix("other: ")) for each in train if each.task == "other"]
    )
    assert [each.output for each in neighbours] == [
        nearest.output(each.source.removeprefix("other: ")) for each in lead
    ]


def test_card_and_report_tell_of_further_tasks(examined: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = examined
    card = (finished(folder, "distil") / "model/README.md").read_text(encoding="utf8")
    head = yaml.safe_load(card.split("---\n")[1])
    assert [result["dataset"].get("config") for result in head["model-index"][0]["results"]] == [None, "other"]
    assert card.index("## Results") < card.index("### Task other") < card.index("bleu, ") < card.index("## Use")
    page = (folder / "runs/llama/report.html").read_text(encoding="utf8")
    assert 'href="#task-other"' in page and 'id="task-other"' in page and "bleu, " in page


def test_a_killed_evaluation_goes_on_with_the_task_it_was_at(
    examined: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = shutil.copytree(examined[0], tmp_path / "both")
    evaluation = finished(folder, "evaluate")
    before = (evaluation / "comparison.json").read_bytes()
    task = evaluation / "tasks" / "other"
    student = task / "outputs" / "student.jsonl"
    kept = student.read_text(encoding="utf8").splitlines(keepends=True)
    mark = json.dumps({**json.loads(kept[0]), "output": "kept"}) + "\n"
    student.write_text("".join([mark, *kept[1:3]]), encoding="utf8")
    (task / "comparison.json").unlink()
    (evaluation / "manifest.json").unlink()
    evaluation.rename(evaluation.with_name(f"{evaluation.name}.part"))
    ended = instil("evaluate", "recipe.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    assert "Task other" in ended.out and "note: other: the student without a teacher did not learn" in ended.err
    assert (evaluation / "comparison.json").read_bytes() == before, "the main task was finished: its times stay"
    lines = student.read_text(encoding="utf8").splitlines(keepends=True)
    assert json.loads(lines[0])["output"] == "kept" and len(lines) == 5


def test_what_an_older_recipe_is_named_by_has_no_further_tasks() -> None:
    section = Recipe.model_validate(project_recipe()).evaluate
    assert "also" not in section.model_dump(mode="json") and not section.also
    # The default section as it was before there were further tasks.
    assert fingerprint(EvaluateConfig()) == "6787dbb5bf960776"


def test_a_further_task_has_the_sections_values_also_when_it_is_saved_and_read_again() -> None:
    recipe = Recipe.model_validate(
        project_recipe(
            data={"also": [{"name": "a"}, {"name": "b"}]},
            evaluate={"items": 9, "beams": 2, "also": [{"task": "a"}, {"task": "b", "items": None, "beams": 1}]},
        )
    )
    assert [(each.items, each.beams, each.max_new_tokens) for each in recipe.evaluate.also] == [(9, 2, 6), (None, 1, 6)]
    assert Recipe.model_validate(yaml.safe_load(resolved_yaml(recipe))) == recipe


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"also": [{"task": "third"}]}, r"evaluate\.also has task 'third'; choose one of main, other"),
        ({"also": [{"task": "other"}, {"task": "other"}]}, "task 'other' is examined twice"),
        ({"also": [{"task": "main"}]}, "task 'main' is examined twice"),
        ({"also": [{"task": "other", "metrics": ["accuracy"]}]}, "accuracy for task 'other' needs a pattern"),
        ({"also": [{"task": "other", "latency_items": 3}]}, r"evaluate\.also\.0\.latency_items: unknown key"),
    ],
)
def test_mistakes_about_further_tasks_are_told_in_one_line(section: dict[str, Any], told: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "p", data={"also": [{"name": "other", "source": "other.jsonl"}]}, evaluate=section)
    with pytest.raises(ConfigError, match=told) as raised:
        read_recipe(folder / "recipe.yaml")
    assert "\n" not in str(raised.value)


def test_a_further_task_that_holds_nothing_out_is_told_by_the_check_and_by_the_stage(tmp_path: Path) -> None:
    folder = _examined_twice(tmp_path / "both")
    change = ("--set", "data.also=[{name: other, source: other.jsonl}]")
    told = "there is no test record of task 'other' to examine the students on; set its test_share in data.also"
    ended = instil("check", "recipe.yaml", *change, "--only", "data", "--quick", "--json", cwd=folder)
    found = {each["code"]: each for each in json.loads(ended.out)["problems"]}["examination-empty"]
    assert ended.code == 1 and f"{found['what']}; {found['remedy']}".startswith(told)
    recipe = read_recipe(folder / "recipe.yaml", change[1:2])
    with pytest.raises(DataError, match=re.escape(told)):
        examined_records(load_splits(recipe.data, base=folder)[0], recipe.evaluate.also[0])


@pytest.mark.parametrize("prompt", [Prompt(text="sum: "), Prompt(kind="template", text="{source}\nA:")])
def test_a_prompt_may_hold_the_prefix_instead_of_the_source(prompt: Prompt) -> None:
    whole = prompt.before("main: ")
    assert whole.render("x", None) == prompt.render("main: x", None)  # type: ignore[arg-type]
    assert whole.separator == prompt.separator
