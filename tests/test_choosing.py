"""What may be chosen: the table of methods, the terms of teachers, and their ranking on the user's own records."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import tiny
from command import instil
from instil.core.errors import ConfigError
from instil.models.adapters import save_adapter
from instil.run.commands.methods import _setting
from instil.run.licences import TABLE, licence_of
from instil.run.methods import all_methods
from instil.run.recipe_file import read_recipe
from instil.run.stages.teach import base_teacher
from instil.run.teachers import _bits, _terms, rank_teachers
from instil.train.adaptation import Adaptation
from instil.train.teach import adapt
from project import models_folder, project

ROOT = Path(__file__).parents[1]


def test_every_recipe_is_a_method_with_the_basis_of_its_numbers() -> None:
    there = {path.stem for path in (ROOT / "recipes" / "methods").glob("*.yaml")}
    named = [method.recipe for method in all_methods() if method.recipe]
    assert there <= set(named) and len(named) == len(set(named))
    assert all(method.basis and method.time and method.memory for method in all_methods())


def test_the_table_of_methods(tmp_path: Path) -> None:
    shown = instil("methods", cwd=tmp_path)
    assert shown.code == 0 and "response-based" in shown.out and "Next: instil run" in shown.out
    told = json.loads(instil("methods", "--json", cwd=tmp_path).out)
    assert {row["method"] for row in told["methods"]} == {method.method for method in all_methods()}


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("Apache-2.0", "allowed"), ("gemma", "with conditions"), ("llama2", "only Llama students"),
        ("llama3.1", "with conditions"), ("llama3", "only Llama students"), ("other", "unknown"),
        ("api:api.openai.com", "no competing models"),
        ("unknown", "unknown"), ("llama3x1", "unknown"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_said_to_be_unknown(name: str, outputs: str) -> None:
    assert licence_of(name).outputs == outputs


def test_every_known_licence_has_its_source_and_date() -> None:
    rows = TABLE.read_text(encoding="utf8").splitlines()[1:]
    assert rows and all(",https://" in row and row.rpartition(",")[2][:2] in ("19", "20") for row in rows)


def test_teachers_are_ranked_on_the_users_records(tmp_path: Path) -> None:
    folder = models_folder()
    candidates = [{"model": str(folder / name)} for name in ("llama", "t5", "missing")]
    place = project(tmp_path / "p", "llama", pairs=60, teachers=candidates, teacher={"teach": None})
    ended = instil("teachers", "recipe.yaml", "--items", "3", "--json", cwd=place)
    assert ended.code == 0, ended.err
    assert "missing is left out" in ended.err
    rows = json.loads(ended.out)["teachers"]
    assert {row["teacher"] for row in rows} == {str(folder / "llama"), str(folder / "t5")}
    assert [row["rougeL"]["value"] for row in rows] == sorted((row["rougeL"]["value"] for row in rows), reverse=True)
    assert all(row["outputs"] == "unknown" and row["access"] == "weights" and row["overlap"] == 1 for row in rows)
    again = instil("teachers", "recipe.yaml", "--items", "3", cwd=place)
    assert "reused" in again.err and "bits/character" in again.out


def test_two_adapters_of_one_base_are_told_apart_and_the_better_one_is_named_whole(tmp_path: Path) -> None:
    base = str(models_folder() / "llama")
    for number in (1, 2):
        model = adapt(tiny.tiny_model("llama"), Adaptation(kind="lora", rank=2), seed=number)
        save_adapter(model, tmp_path / "p" / f"adapter {number}", base=base)
    candidates = [{"model": base, "adapter": f"adapter {number}"} for number in (1, 2)]
    place = project(tmp_path / "p", "llama", pairs=60, teachers=candidates, teacher={"teach": None})
    ended = instil("teachers", "recipe.yaml", "--items", "2", cwd=place)
    assert ended.code == 0, ended.err
    assert all(f"{base} + adapter {number} " in ended.out for number in (1, 2))
    *_, option, setting = shlex.split(ended.out.splitlines()[-1])
    first = next(line for line in ended.out.splitlines()[1:] if line.startswith(base))
    chosen = read_recipe(place / "recipe.yaml", (setting,)).teacher
    assert option == "--set" and first.startswith(chosen.title)
    assert chosen in read_recipe(place / "recipe.yaml").teachers


def test_the_setting_of_a_served_teacher_reads_as_it_was_written(tmp_path: Path) -> None:
    section = {
        "model": "wheel:smollm2-135m-instruct", "revision": "it's: #1",
        "served": {"url": "http://gpu:8000/v1", "model": "größer", "usd_per_million_input": 1e-06},
    }  # fmt: skip
    (setting,) = shlex.split(_setting(section))
    place = project(tmp_path / "p", "llama", pairs=30)
    found = read_recipe(place / "recipe.yaml", (setting, "labels={}", "distil.temperature=1")).teacher
    assert found.model_dump(exclude_defaults=True) == section
    assert found.title == "wheel:smollm2-135m-instruct (it's: #1) as größer at http://gpu:8000/v1"


def test_a_candidate_that_would_have_to_be_taught_is_refused(tmp_path: Path) -> None:
    teach = {"loop": {"budget": {"steps": 1}}}
    place = project(tmp_path / "p", "llama", teachers=[{"model": "one"}, {"model": "two", "teach": teach}])
    ended = instil("teachers", "recipe.yaml", cwd=place)
    assert ended.code == 2
    assert "ranked as they are, but two has teach; teach it first and name its model or adapter" in ended.said


@pytest.mark.parametrize(
    ("url", "outputs"),
    [
        ("http://localhost:8000/v1", "allowed"), ("http://10.0.0.7/v1", "allowed"), ("http://gpu.local/v1", "allowed"),
        ("https://models.example.com/v1", "unknown"), ("https://api.openai.com/v1", "no competing models"),
    ],
)  # fmt: skip
def test_the_licence_of_the_weights_counts_on_a_server_of_ones_own(url: str, outputs: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(models_folder() / "llama", model)
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    served = {"model": str(model), "teach": None, "served": {"url": url, "model": "tiny"}}
    place = project(tmp_path / "p", "llama", teacher=served, labels={"temperatures": [1.0]}, distil={"temperature": 1})
    recipe = read_recipe(place / "recipe.yaml")
    assert _terms(recipe.teacher, base_teacher(recipe))["outputs"] == outputs


def test_bits_are_those_of_the_whole_target(tmp_path: Path) -> None:
    from instil.data.records import Record
    from instil.models.loading import load_model
    from instil.run.pipeline import Pipeline

    place = project(tmp_path / "p", "llama", pairs=60, prompt={"kind": "prefix", "text": ""}, teacher={"teach": None})
    pipeline = Pipeline(read_recipe(place / "recipe.yaml"), place)
    found = _bits(pipeline.recipe, base_teacher(pipeline.recipe, pipeline.data), [Record("1", "a cat", ("eats",))])
    loaded = load_model(str(models_folder() / "llama"))
    prompt, target = (loaded.tokenizer(text)["input_ids"] for text in ("a cat", " eats"))
    target.append(loaded.tokenizer.eos_token_id)
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1].double()
    nats = -logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).sum()
    assert found == pytest.approx(float(nats) / math.log(2) / len("eats"), rel=1e-5)


def test_without_candidates_it_says_how_to_name_some(tmp_path: Path) -> None:
    place = project(tmp_path / "p", pairs=30)
    with pytest.raises(ConfigError, match=r"add teachers: \[\{model"):
        rank_teachers(read_recipe(place / "recipe.yaml"), place, items=3)


def test_the_benchmark_compares_what_is_comparable(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.methods import FINE_TUNING, ways_of

    ways = ways_of(None, {"steps": 2})
    assert {FINE_TUNING, "response", "lora", "synthetic"} <= set(ways)
    assert all(way["student"] == ways[FINE_TUNING]["student"] for way in ways.values())
    assert all(way["distil"]["loop"]["budget"] == {"steps": 2} for way in ways.values())
    left_out = capsys.readouterr().err
    assert {"self", "multi-task", "several-teachers"} <= {line.partition(":")[0] for line in left_out.splitlines()}
    with pytest.raises(ConfigError, match="no method is called 'magic'; choose among response"):
        ways_of(["magic"], {"steps": 2})
