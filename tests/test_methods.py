"""Every recipe of recipes/methods trains, here on tiny models and pairs; every one has its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import instil
from instil.run.recipe_file import read_recipe
from project import models_folder, write_pairs

PAIRS = "source: pairs.jsonl, clean: {near_duplicates: null}"
OWN: dict[str, dict[str, str]] = {
    "step-by-step": {
        "data": f"{{{PAIRS}, also: [{{name: rationale, prefix: 'explain: ', from_teacher: true}}]}}",
        "student.model": str(models_folder() / "llama"),
    },
    "prompting": {
        "student.model": str(models_folder() / "llama"),
        "evaluate.prompted": "[{name: few-shot, of: student, shots: 1}]",
    },
    "synthetic": {"synthetic": "{records: 4, shots: 1, ask: 'New:'}", "limits": "{source: 40, target: 16}"},
    "several-teachers": {"labels.others": "[]"},
    "multi-task": {"data": f"{{{PAIRS}, also: [{{name: titles, prefix: 'title: '}}], sampling: {{temperature: 2}}}}"},
}
"""What single recipes are given instead, because their data are not pairs alone."""

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes" / "methods").glob("*.yaml"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_trains(path: Path, tmp_path: Path) -> None:
    if path.stem == "qlora":
        pytest.importorskip("bitsandbytes")
    write_pairs(tmp_path / "pairs.jsonl", 60)
    recipe = read_recipe(path)
    assert recipe.student is not None
    cut = {} if recipe.student.model else {"student.keep": "[0]"} if recipe.student.keep else {"student.layers": "2"}
    if recipe.student.scratch:
        cut = {"student.scratch": "{layers: 1, tokenizer: {train: 300}}"}
    changes = {
        "data": f"{{{PAIRS}}}",
        "teacher": f"{{model: {models_folder() / 'llama'}}}",
        **cut,
        **({"assistants": "[{student: {layers: 2}}]"} if recipe.assistants else {}),
        "distil.loop.budget": "{steps: 3}",
        "limits": "{source: 64, target: 16}",
        "evaluate": "{items: 4, max_new_tokens: 6, latency_items: 2}",
        **OWN.get(path.stem, {}),
    }
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    # Its teacher has random weights, which `instil check` would refuse.
    ended = instil("run", str(path), *options, "--no-check", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert {"teacher", "student", "student_without_teacher"} <= set(summary)


def test_every_recipe_has_a_section_on_the_page() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf8")
    assert [path.stem for path in RECIPES if f"recipes/methods/{path.name}" not in page] == []
