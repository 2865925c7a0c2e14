"""The command line: streams, exit codes, what comes next."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from command import instil
from instil.data.config import DataConfig
from instil.run.commands.following import OWN_DATA, following, told, use_of
from project import project

pytestmark = pytest.mark.timeout(600)
FOLLOWS = {"data": "teach", "teach": "label", "label": "distil", "distil": "evaluate", "evaluate": "run"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("cli"), evaluate={"latency_items": 1})


@pytest.mark.parametrize("stage", FOLLOWS)
def test_each_stage_is_a_command_that_names_the_next_one(stage: str, folder: Path) -> None:
    ended = instil(stage, "recipe.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    assert f"instil {FOLLOWS[stage]} recipe.yaml" in ended.out.splitlines()[-1]
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("stage", FOLLOWS)
def test_json_is_one_object_on_stdout_and_nothing_else(stage: str, folder: Path) -> None:
    ended = instil(stage, "recipe.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["next"] == f"instil {FOLLOWS[stage]} recipe.yaml"
    if stage != "evaluate":
        assert (folder / found["folder"] / "manifest.json").is_file()
        assert {"fingerprint", "inputs", "config", "result", "seed", "wall_s", "versions", "hardware"} <= set(found)


def test_a_stage_that_the_recipe_leaves_out_says_so(folder: Path) -> None:
    ended = instil("teach", "recipe.yaml", "--set", "teacher.teach=null", cwd=folder)
    assert ended.code == 0
    assert ended.out.startswith("teach: the recipe asks for none")
    printed = instil("teach", "recipe.yaml", "--set", "teacher.teach=null", "--json", cwd=folder)
    assert json.loads(printed.out) == {"next": "instil label recipe.yaml --set teacher.teach=null"}


def test_a_finished_student_is_exported_and_that_of_the_built_in_corpus_followed_by_ones_own_data() -> None:
    student = Path("runs/my run/distil-1")
    assert use_of(student, DataConfig(source="synopsis")) == OWN_DATA
    mine = use_of(student, DataConfig(source="pairs.jsonl"))
    assert shlex.split(mine) == ["instil", "export", str(student), "--to", "ctranslate2"]
    assert told(OWN_DATA) == f"Next, for your own data: {OWN_DATA}" and told(mine) == f"Next: {mine}"


def test_the_next_command_has_the_same_changes(folder: Path) -> None:
    changes = ["--set", "data.limit={train: 150}", "--set", "name=it's"]
    command = following("teach", Path("a recipe.yaml"), changes[1::2])
    assert shlex.split(command) == ["instil", "teach", "a recipe.yaml", *changes]
    ended = instil("data", "recipe.yaml", *changes[:2], cwd=folder)
    assert ended.out.splitlines()[-1] == "Next: instil teach recipe.yaml --set 'data.limit={train: 150}'"
    checked = instil("check", "recipe.yaml", "--only", "data", "--quick", *changes[:2], "--json", cwd=folder)
    assert json.loads(checked.out)["next"] == "instil run recipe.yaml --set 'data.limit={train: 150}'"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("run",), "Missing argument"),
        (("run", "recipe.yaml", "--nonsense"), "No such option"),
        (("label", "recipe.yaml", "--measure", "0"), "Invalid value for '--measure'"),
        (("label", "recipe.yaml", "--measure", "-5"), "greater than or equal to 1"),
        (("data", "nope.yaml"), "nope.yaml: no such recipe"),
        (("data", "recipe.yaml", "--set", "distil.alpha=2"), "--set distil.alpha=2: distil.alpha"),
    ],
)
def test_misuse_ends_with_two_and_a_clear_line(arguments: tuple[str, ...], says: str, folder: Path) -> None:
    ended = instil(*arguments, cwd=folder)
    assert ended.code == 2
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_a_problem_with_json_asked_for_leaves_stdout_empty(folder: Path) -> None:
    ended = instil("data", "recipe.yaml", "--set", "data.source=nope.jsonl", "--json", cwd=folder)
    assert ended.code == 1
    assert ended.out == ""
    assert ended.said.startswith("nope.jsonl: ")


def test_help_lists_the_commands_without_heavy_imports(folder: Path) -> None:
    code = (
        "import sys; from instil.run import cli\n"
        "try: cli.main(['--help'])\n"
        "finally: print(sorted({'torch', 'transformers', 'numpy', 'yaml', 'pyarrow', 'datasets'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    for name in ("init", *FOLLOWS, "run"):
        assert f"  {name} " in shown


def test_help_answers_at_once() -> None:
    """0.3 s of work; processor time, so that a busy machine does not count."""

    def cost() -> float:
        before = os.times()
        code = "from instil.run.cli import main; main(['--help'])"
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(cost() for _ in range(8)) < 0.3


def test_version(folder: Path) -> None:
    ended = instil("--version", cwd=folder)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("instil ")


def test_completion_can_be_shown(folder: Path) -> None:
    assert "--install-completion" in instil("--help", cwd=folder).out


def test_init_writes_a_recipe_that_runs(folder: Path) -> None:
    ended = instil("init", "pairs.jsonl", "--yes", "--out", "mine.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    made = json.loads(ended.out)
    assert made["recipe"] == "mine.yaml"
    assert made["next"].startswith("instil run")
    assert instil("data", "mine.yaml", cwd=folder).code == 0
