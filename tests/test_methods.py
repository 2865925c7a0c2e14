"""Every recipe of recipes/methods trains, here on tiny models and pairs; every one has its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from command import instil
from instil.data.records import MAIN_TASK
from instil.labels.mixed import MixedLabels
from instil.labels.store import LabelStore
from instil.models.loading import load_reader
from instil.run.pipeline import Pipeline
from instil.run.recipe_file import read_recipe
from instil.run.stages.label import Labels
from instil.run.stages.teach import encode
from project import models_folder, project, write_pairs

PAIRS = "source: pairs.jsonl, clean: {near_duplicates: null}"
TITLES = "name: titles, prefix: 'title: ', test_share: 0.2"
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
    "multi-task": {
        "data": f"{{{PAIRS}, also: [{{{TITLES}}}], sampling: {{temperature: 2}}}}",
        "evaluate.items": "4",
        "evaluate.latency_items": "2",
    },
}
"""What single recipes are given instead, because their data are not pairs alone."""

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes" / "methods").glob("*.yaml"))


def options_of(changes: dict[str, str]) -> list[str]:
    return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


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
    if recipe.evaluate.also:
        del changes["evaluate"]  # What stands in the recipe is tried.
    if recipe.labels.others:
        changes["labels.others"] = f"[{{teacher: {{model: {models_folder() / 'qwen3'}}}, weight: 0.7}}]"
    options = options_of(changes)
    # Its teacher has random weights, which `instil check` would refuse.
    ended = instil("run", str(path), *options, "--no-check", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert {"teacher", "student", "student_without_teacher"} <= set(summary)
    for each in recipe.evaluate.also:
        found = summary["tasks"][each.task]
        assert {"teacher", "student", "student_without_teacher"} <= set(found)
        assert set(each.metrics) <= set(found["student"]["metrics"]) != set(summary["student"]["metrics"])


def test_every_recipe_has_a_section_on_the_page() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf8")
    assert [path.stem for path in RECIPES if f"recipes/methods/{path.name}" not in page] == []


def test_a_recipe_that_trusts_by_loss_mixes_by_it(tmp_path: Path) -> None:
    """Through the recipe, labels are the mixture by fixed weights, or the same weighed by each teacher's loss."""
    folder = project(tmp_path / "p", "llama", pairs=60, teacher={"teach": None}, labels={"targets": "gold"})
    recipe = read_recipe(folder / "recipe.yaml")

    def labels(*changes: str) -> Labels:
        return Pipeline(read_recipe(folder / "recipe.yaml", changes), folder).labels

    own, other = labels(), labels("name=other", f"teacher.model={models_folder() / 'qwen3'}")
    assert other.artifact is not None and isinstance(own.store, LabelStore) and isinstance(other.store, LabelStore)
    others = f"labels.others=[{{store: '{other.artifact.folder}', weight: 0.7}}]"
    found = {trust: labels(others, f"labels.trust={trust}") for trust in ("fixed", "by-loss")}
    assert len({own.fingerprint, *(each.fingerprint for each in found.values())}) == 3
    examples, _ = encode(recipe, load_reader(str(models_folder() / "llama")), own.records, "labels")
    for trust, mixed in found.items():
        assert isinstance(mixed.store, MixedLabels)
        wanted = MixedLabels((own.store, other.store), {MAIN_TASK: (0.3, 0.7)}, by_loss=trust == "by-loss")
        for told, expected in zip(mixed.store.read(examples), wanted.read(examples), strict=True):
            torch.testing.assert_close(told, expected)
    fixed, trusting = (each.store.read(examples)[1] for each in found.values() if each.store)
    assert not torch.equal(fixed, trusting)
