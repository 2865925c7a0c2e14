"""Examples in the prompt, and systems that are only asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instil.core.errors import ConfigError, DataError
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.shots import choose_shots, until_next, with_shots
from instil.run.pipeline import Pipeline
from instil.run.recipe_file import read_recipe
from project import project

RECORDS = [Record(str(n), f"s{n}", (f"t{n}",)) for n in range(5)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (Prompt(kind="prefix", text="sum: "), "sum: s0 t0\n\nsum: s1 t1\n\nsum: x"),
        (Prompt(kind="template", text="{source}\nA:"), "s0\nA: t0\n\ns1\nA: t1\n\nx\nA:"),
        (Prompt(kind="template", text="{source}\n"), "s0\nt0\n\ns1\nt1\n\nx\n"),
    ],
)
def test_shots_stand_as_the_model_would_have_met_them(prompt: Prompt, expected: str) -> None:
    shown = with_shots(prompt, RECORDS[:2])
    assert shown.render("x", None) == expected  # type: ignore[arg-type]
    assert shown.separator == prompt.separator
    assert with_shots(prompt, []) is prompt


def test_shots_are_drawn_by_seed_and_none_holds_a_slot() -> None:
    assert choose_shots(RECORDS, 3, 1) == choose_shots(RECORDS, 3, 1)
    assert len({record.id for record in choose_shots(RECORDS, 5, 2)}) == 5
    odd = Record("odd", "about {source} itself", ("t",))
    with pytest.raises(DataError, match="2 examples are to stand in the prompt but there are 1 records"):
        choose_shots([odd, RECORDS[0]], 2, 1)


def test_an_answer_ends_where_another_example_begins() -> None:
    text = " an answer\nof two lines\n\nsum: next"
    assert until_next(text, RECORDS[:1]) == "an answer\nof two lines"
    assert until_next(text, []) == text
    long = Record("long", "s", ("two\n\nparagraphs",))
    assert "paragraphs\n\n###\n\nsum: x" in with_shots(Prompt(text="sum: "), [long]).render("x", None)  # type: ignore[arg-type]
    assert until_next("one\n\ntwo\n\n###\n\nsum: next", [long]) == "one\n\ntwo"


def test_asked_systems_stand_beside_the_others(tmp_path: Path) -> None:
    prompted = [{"name": "zero-shot"}, {"name": "few-shot", "of": "student", "shots": 1}]
    folder = project(
        tmp_path / "p", pairs=40, teacher={"teach": None}, evaluate={"prompted": prompted},
        distil={"without_teacher": False, "loop": {"budget": {"steps": 2}}},
    )  # fmt: skip
    path = folder / "recipe.yaml"
    artifact = Pipeline(read_recipe(path), folder).evaluation
    comparison = json.loads((artifact.folder / "comparison.json").read_text(encoding="utf8"))
    names = [system["name"] for system in comparison["systems"]]
    assert {"teacher", "student", "zero-shot", "few-shot"} <= set(names)
    with pytest.raises(ConfigError, match="student is the name of a system"):
        read_recipe(path, ("evaluate.prompted=[{name: student}]",))
