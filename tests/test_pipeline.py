"""One recipe drives the whole graph; what is finished is reused; what is killed goes on and ends the same."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from pathlib import Path

import pytest

from command import Command, Ended, instil
from project import finished, project, results, weights

pytestmark = pytest.mark.timeout(900)
_OURS = re.compile(
    r"(data|teach|student|label|distil|distil-without-teacher|evaluate): (making|going on in|done in|reused) |  |note: "
    r"|[\w' -]+: \d+(/\d+)? \S+, [\d.]+ \S+/s"
)
STAGES = ("data", "teach", "student", "label", "distil", "distil-without-teacher", "evaluate")


@pytest.fixture(scope="module", params=["t5", "llama"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    folder = project(tmp_path_factory.mktemp(request.param), request.param)
    return folder, instil("run", "recipe.yaml", "--json", cwd=folder)


def _done(ended: Ended, word: str) -> list[str]:
    """Stages that were `word` (made: "done in"; found: "reused"), in order."""
    return [line.partition(":")[0] for line in ended.err.splitlines() if f": {word} " in line]


def test_a_run_makes_every_stage_once_and_prints_one_json_object(run: tuple[Path, Ended]) -> None:
    folder, ended = run
    assert ended.code == 0, ended.err
    assert sorted(_done(ended, "done in")) == sorted(STAGES)
    printed = json.loads(ended.out)
    kept = json.loads(next(folder.glob("runs/*/summary.json")).read_text())
    student = f"runs/{printed['recipe']}/{printed['stages']['student']}"
    told = {"report": printed["report"], "next": f"instil export {student} --to ctranslate2"}
    assert printed == kept | told
    assert told["next"] in (folder / printed["report"]).read_text(encoding="utf8")


def test_the_summary_has_what_the_issue_asks_for(run: tuple[Path, Ended]) -> None:
    summary = json.loads(run[1].out)
    for system in ("teacher", "student", "student_without_teacher", "lead1"):
        assert set(summary[system]["rougeL"]) == {"value", "low", "high"}
        assert {"n", "parameters", "latency_ms_p50"} <= set(summary[system])
        assert summary[system]["n"] == 6
    assert "retention" in summary
    assert summary["student"]["parameters"] < summary["teacher"]["parameters"]


def test_nothing_of_other_peoples_libraries_is_said(run: tuple[Path, Ended]) -> None:
    assert [line for line in run[1].err.splitlines() if not _OURS.match(line)] == []


def test_a_second_run_reuses_everything_and_says_so(run: tuple[Path, Ended]) -> None:
    folder, _ = run
    before = results(folder)
    ended = instil("run", "recipe.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    assert sorted(_done(ended, "reused")) == sorted(STAGES)
    assert _done(ended, "done in") == []
    assert ended.out.splitlines()[-1].startswith("Next: instil export runs/")
    assert results(folder) == before


def test_another_alpha_makes_only_the_student_and_its_evaluation_anew(run: tuple[Path, Ended]) -> None:
    folder, _ = run
    ended = instil("run", "recipe.yaml", "--set", "distil.alpha=0.2", cwd=folder)
    assert _done(ended, "done in") == ["distil", "evaluate"], ended.err


def test_how_often_checkpoints_are_written_makes_nothing_anew(run: tuple[Path, Ended]) -> None:
    folder, _ = run
    ended = instil("distil", "recipe.yaml", "--set", "distil.loop.checkpoint_steps=3", cwd=folder)
    assert ended.code == 0 and _done(ended, "done in") == [], ended.err


def test_another_prompt_makes_all_that_reads_it_anew(run: tuple[Path, Ended]) -> None:
    folder, _ = run
    ended = instil("distil", "recipe.yaml", "--set", "prompt.text=say: ", "--set", "teacher.teach=null", cwd=folder)
    assert _done(ended, "done in") == ["student", "label", "distil", "distil-without-teacher"], ended.err


def test_checkpoints_do_not_outlive_their_stage(run: tuple[Path, Ended]) -> None:
    assert list(run[0].glob("runs/*/*/checkpoint")) == []
    assert [path.name for path in run[0].rglob(".aside-*")] == []


def test_the_resolved_recipe_stands_with_each_artifact_and_runs_again(run: tuple[Path, Ended]) -> None:
    folder, _ = run
    kept = finished(folder, "teach") / "recipe.yaml"
    ended = instil("teach", str(kept), cwd=folder)
    assert _done(ended, "reused") == ["data", "teach"], ended.err


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("whole"), "llama", pairs=700)
    ended = instil("run", "recipe.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    return folder


def _kill_in(stage: str, folder: Path, dice: random.Random, number: int) -> None:
    """Run until `stage` is under way, a random while longer, and send a signal."""
    command = Command("run", "recipe.yaml", cwd=folder)
    while f"\n{stage}: " not in "\n" + command.err and command.poll() is None:
        time.sleep(0.01)
    time.sleep(dice.uniform(0, 0.4) * (stage != "data"))
    command.signal(number)
    command.end()


def test_killed_in_every_stage_the_same_command_goes_on_and_ends_the_same(uninterrupted: Path, tmp_path: Path) -> None:
    folder = project(tmp_path / "killed", "llama", pairs=700)
    seed = random.SystemRandom().randrange(10**6)
    dice = random.Random(seed)
    for stage in (*STAGES, "teach", "distil"):
        _kill_in(stage, folder, dice, signal.SIGKILL)
    ended = instil("run", "recipe.yaml", cwd=folder)
    assert ended.code == 0, (seed, ended.err)
    assert results(folder) == results(uninterrupted), f"seed {seed}"
    assert not list(folder.rglob("*.part")) and not list(folder.rglob(".aside-*"))


def test_killed_after_a_checkpoint_training_goes_on_from_there(uninterrupted: Path, tmp_path: Path) -> None:
    folder = project(tmp_path / "late", "llama", pairs=700)
    command = Command("teach", "recipe.yaml", cwd=folder)
    while not list(folder.glob("runs/*/teach-*.part/checkpoint/state.json")) and command.poll() is None:
        time.sleep(0.01)
    command.signal(signal.SIGKILL)
    assert command.end().code == -signal.SIGKILL
    step = json.loads(next(folder.glob("runs/*/teach-*.part/checkpoint/state.json")).read_text())["step"]
    ended = instil("teach", "recipe.yaml", cwd=folder)
    assert "teach: going on in " in ended.err
    assert step >= 2
    found, whole = (
        [json.loads(line)["loss"] for line in (finished(one, "teach") / "history.jsonl").read_text().splitlines()]
        for one in (folder, uninterrupted)
    )
    assert found == whole
    assert (finished(folder, "teach") / "adapter/adapter_model.safetensors").read_bytes() == (
        finished(uninterrupted, "teach") / "adapter/adapter_model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("stage", ["teach", "label", "evaluate"])
def test_ctrl_c_ends_with_one_line_and_the_same_command_goes_on(
    stage: str, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = project(tmp_path / "stopped", "llama", pairs=700)
    command = Command("run", "recipe.yaml", cwd=folder)
    while f"\n{stage}: making" not in command.err and command.poll() is None:
        time.sleep(0.01)
    command.signal(signal.SIGINT)
    ended = command.end()
    assert ended.code == 130
    assert ended.said == "interrupted; the same command goes on from here"
    assert ended.out == ""
    if stage != "evaluate":
        assert instil("distil", "recipe.yaml", cwd=folder).code == 0
        assert weights(folder) == weights(uninterrupted)
