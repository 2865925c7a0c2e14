"""A recipe: every mistake at once, each with its line; what `--set` changes, it changes and nothing else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.utils import set_seed
from hypothesis import given, settings
from hypothesis import strategies as st

from instil.core.errors import ConfigError
from instil.run.recipe import SEEDS, Recipe, resolved_yaml
from instil.run.recipe_file import read_recipe

GOOD = """\
name: good
data:
  source: pairs.jsonl
teacher:
  model: somewhere
labels:
  temperatures: [2.0]
student:
  layers: 2
distil:
  alpha: 0.7
  temperature: 2.0
  loop:
    budget:
      steps: 20
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return _write(tmp_path, GOOD)


def _write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf8")
    return path


def _problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_recipe(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_five_mistakes_are_told_at_once_each_with_its_line_in_order(tmp_path: Path) -> None:
    text = GOOD.replace("layers: 2", "layers: 0").replace("alpha: 0.7", "alpha: 7").replace("steps", "stepps")
    text = text.replace("name: good", "name: so so").replace("model: somewhere", "modell: somewhere")
    assert _problems(_write(tmp_path, text)) == [
        "recipe.yaml:1: name: string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$' (found 'so so')",
        "recipe.yaml:4: teacher.model: missing; add it",
        "recipe.yaml:5: teacher.modell: unknown key; did you mean 'model'?",
        "recipe.yaml:9: student.layers: input should be greater than 0 (found 0)",
        "recipe.yaml:11: distil.alpha: a share lies between 0 and 1 (found 7)",
        "recipe.yaml:15: distil.loop.budget.stepps: unknown key; did you mean 'steps'?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("      steps: 20", "      steps: 20\n      epochs: 1", 14, "exactly one of steps, epochs, tokens, minutes"),
        ("      steps: 20", "      {}", 14, "found none"),
        ("steps: 20", "steps: 0", 15, "greater than 0 (found 0)"),
        ("steps: 20", "minutes: -1", 15, "greater than 0 (found -1)"),
        ("steps: 20", "steps: many", 15, "valid integer"),
        ("steps: 20", "steps: 2.5", 15, "valid integer"),
        ("alpha: 0.7", "alpha: [0.7]", 11, "give a number, or a schedule"),
        ("alpha: 0.7", "alpha: {start: 0.9, end: -1}", 11, "a share lies between 0 and 1"),
        ("alpha: 0.7", "beta: 1.0", 11, "neither included"),
        ("temperature: 2.0", "temperature: {start: 4, end: 1}", 12, "schedule of shape: steps"),
        ("temperature: 2.0", "temperature: {start: 4, end: 1, shape: steps, parts: 2}", None, "temperature is 4 but"),
        ("layers: 2", "layers: 2\n  model: other", 8, "model and layers are both set"),
        ("layers: 2", "mend: true", 8, "neither a model nor layers"),
        ("layers: 2", "layers: 2\n  choice: evenly", 10, "did you mean 'even'"),
        ("layers: 2", "choice: listed", 8, "keep lists the layers of choice: listed"),
        ("alpha: 0.7", "alpha: 0.7\n  adapt: {kind: last}", 12, "say how many with layers"),
        ("temperatures: [2.0]", "temperatures: [1, 4]", None, "distil.temperature is 2 but"),
        ("student:\n  layers: 2\n", "", None, "distil has nobody to train"),
        ("  source: pairs.jsonl", "  columns: {source: a}", 2, "neither is set"),
        ("name: good", "name: good\nname: better", 2, "name: stands here a second time"),
        ("  alpha: 0.7", "  alpha: 0.7\n  alpha: 0.5", 12, "distil.alpha: stands here a second time"),
        ("name: good", "name: [good", 2, "not YAML"),
        ("name: good", "name: \x00", None, "not YAML"),
        ("name: good", "name: 2024-13-45", None, "not YAML"),
        ("name: good", "1: good", 1, "keys should be strings"),
    ],
)
def test_each_mistake_is_one_line_that_names_its_place(
    old: str, new: str, line: int | None, says: str, tmp_path: Path
) -> None:
    assert GOOD.count(old) == 1
    problems = _problems(_write(tmp_path, GOOD.replace(old, new)))
    place = f"recipe.yaml:{line}: " if line else "recipe.yaml: "
    assert any(problem.startswith(place) and says in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "this is empty"),
        (b"- a\n- b\n", "this is a list"),
        (b"just words", "this is a str"),
        (b"name: caf\xe9\n", "not UTF-8 (byte 9)"),
        (b"[" * 1000, "nested"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    (problem,) = _problems(path)
    assert says in problem


def test_a_recipe_that_is_not_there_or_a_folder_is_one_line(tmp_path: Path) -> None:
    assert _problems(tmp_path / "nope.yaml") == ["nope.yaml: no such recipe; write one with instil init"]
    (tmp_path / "folder").mkdir()
    assert _problems(tmp_path / "folder") == ["folder: a folder; give the recipe's YAML file"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("distil.alpha=2", "--set distil.alpha=2: distil.alpha: a share lies between 0 and 1 (found 2)"),
        ("distill.alpha=2", "--set distill.alpha=2: distill: unknown key; did you mean 'distil'?"),
        ("distil.loop.budget=3", "budget: is 3, but it has parts of its own: steps, epochs, tokens, minutes"),
        ("evaluate.split=zzz", "evaluate.split: is 'zzz'; choose one of validation, test"),
        ("name=", "name: is empty; give a text"),
        ("student.layers=", "neither a model nor layers"),
        ("name.sub=1", "--set name.sub=1: name is a value, not a section"),
        ("distil.alpha", "write it as section.key=value"),
        ("=1", "write it as section.key=value"),
        ("distil..alpha=1", "write it as section.key=value"),
    ],
)
def test_a_mistake_in_set_is_told_as_such(override: str, says: str, good: Path) -> None:
    (problem,) = _problems(good, override)
    assert says in problem


def test_mistakes_of_the_file_and_of_set_come_together(tmp_path: Path) -> None:
    problems = _problems(_write(tmp_path, GOOD.replace("layers: 2", "layerz: 2")), "distil.alpha=2", "seed=x")
    assert len(problems) == 3
    assert problems[-1].startswith("recipe.yaml:9: student.layerz: unknown key")


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("say: ", "say: "), ("a #b", "a #b"), (" - x", " - x"), ('" quoted"', " quoted"), ("2024-01-01", "2024-01-01"),
        ("{", "{"), ("two words", "two words"),
    ],
)  # fmt: skip
def test_text_is_set_as_it_was_typed(typed: str, value: str, good: Path) -> None:
    assert read_recipe(good, ("prompt.kind=prefix", f"prompt.text={typed}")).prompt.text == value


def test_stores_of_other_teachers_do_not_go_with_texts_of_the_students_own(good: Path) -> None:
    others = "labels.others=[{store: x, weight: 0.5}]"
    (problem,) = _problems(good, others, "distil.on_policy={}")
    assert "labels.others has the store x, which cannot label what the student writes (distil.on_policy)" in problem
    teachers = "labels.others=[{teacher: {model: x}, weight: 0.5}]"
    assert read_recipe(good, (teachers, "distil.on_policy={}")).labels.other_teachers
    assert read_recipe(good, (others,)).labels.others


@pytest.mark.parametrize("override", ["distil.loop.budget={minutes: .inf}", "distil.alpha=.nan"])
def test_numbers_are_finite(override: str, good: Path) -> None:
    with pytest.raises(ConfigError, match="finite number"):
        read_recipe(good, (override,))


@pytest.mark.parametrize("key", ["seed", "student_seed"])
@pytest.mark.parametrize("value", ["-5", "99999999999999999999999"])
def test_a_seed_that_no_generator_takes_is_refused(key: str, value: str, good: Path) -> None:
    (said,) = _problems(good, f"{key}={value}")
    assert said.startswith(f"--set {key}={value}: {key}: input should be") and value in said


def test_the_last_seed_and_those_behind_it_are_taken(good: Path) -> None:
    most = SEEDS - 1
    recipe = read_recipe(good, (f"seed={most}", f"student_seed={most + 1000}"))
    assert (recipe.seed, recipe.seed_of_student) == (most, most + 1000)
    set_seed(recipe.seed_of_student)  # Of Python, NumPy and torch, as training does.


def test_a_whole_section_can_be_set(good: Path) -> None:
    recipe = read_recipe(good, ("distil.loop.budget={minutes: 5}",))
    assert recipe.distil is not None
    assert str(recipe.distil.loop.budget) == "5 minutes"


def test_the_optimizer_of_the_worked_example_can_be_written(good: Path) -> None:
    settings = ("learning_rate=3e-5", "betas=[0.9, 0.999]", "weight_decay=0.01", "accumulation=8", "batch_size=2")
    recipe = read_recipe(good, tuple(f"distil.loop.{setting}" for setting in settings))
    assert recipe.distil is not None
    loop = recipe.distil.loop
    assert (loop.learning_rate, loop.betas, loop.weight_decay) == (3e-5, (0.9, 0.999), 0.01)
    assert (loop.accumulation, loop.batch_size) == (8, 2)


def test_adafactor_has_no_betas(good: Path) -> None:
    recipe = read_recipe(good, ("distil.loop.optimizer=adafactor",))
    assert recipe.distil is not None and recipe.distil.loop.optimizer == "adafactor"
    with pytest.raises(ConfigError, match="adafactor has no betas; leave them out"):
        read_recipe(good, ("distil.loop.optimizer=adafactor", "distil.loop.betas=[0.9, 0.99]"))


def test_the_resolved_recipe_reads_as_the_same(good: Path, tmp_path: Path) -> None:
    recipe = read_recipe(good, ("distil.alpha=0.3",))
    assert read_recipe(_write(tmp_path, resolved_yaml(recipe))) == recipe


_PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
_KEYS = st.lists(
    st.sampled_from(["name", "seed", "distil", "alpha", "loop", "budget", "data", "x"]), min_size=1, max_size=4
)

_CHARACTERS = st.characters(max_codepoint=0xD7FF)  # JSON writes larger ones as two, which YAML does not put together


def _leaves(value: Any, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(value, dict) and value:
        return {key: leaf for name, inner in value.items() for key, leaf in _leaves(inner, (*place, name)).items()}
    return {place: value}


@settings(deadline=None, max_examples=50)
@given(alpha=st.floats(0, 1), seed=st.integers(0, SEEDS - 1), text=st.text(_CHARACTERS, max_size=20))
def test_set_changes_what_it_names_and_nothing_else(
    alpha: float, seed: int, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _write(tmp_path_factory.mktemp("set"), GOOD)
    overrides = (f"distil.alpha={alpha!r}", f"seed={seed}", f"prompt.text={json.dumps(text)}")
    before, after = (
        _leaves(read_recipe(path, some).model_dump(mode="json")) for some in ((), (*overrides, "prompt.kind=prefix"))
    )
    changed = {("distil", "alpha"): alpha, ("seed",): seed, ("prompt", "text"): text, ("prompt", "kind"): "prefix"}
    assert after == {**before, **changed}


@settings(deadline=None, max_examples=50)
@given(keys=_KEYS, value=_PLAIN)
def test_any_set_gives_a_recipe_or_one_clear_error(
    keys: list[str], value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _write(tmp_path_factory.mktemp("any"), GOOD)
    with contextlib.suppress(ConfigError):
        assert isinstance(read_recipe(path, (f"{'.'.join(keys)}={yaml.safe_dump(value).strip()}",)), Recipe)


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=60))
def test_any_text_gives_a_recipe_or_one_clear_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "recipe.yaml"
    path.write_bytes(text.encode("utf8", "surrogatepass"))
    with pytest.raises(ConfigError):
        read_recipe(path)


@settings(deadline=None, max_examples=50)
@given(override=st.text(max_size=40))
def test_any_override_text_gives_a_recipe_or_one_clear_error(
    override: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _write(tmp_path_factory.mktemp("override"), GOOD)
    with contextlib.suppress(ConfigError):
        read_recipe(path, (override,))
