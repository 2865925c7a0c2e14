"""`instil search`: what it tries, gives up, remembers and chooses, and how it ends where it cannot."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from command import Command, instil
from instil.core.errors import ConfigError
from instil.models.layers import stack_of
from instil.models.students.depth import keep_layers
from instil.plan.configs import shape_of_config
from instil.run.recipe_file import read_recipe
from instil.run.search.front import Rated, front_of, front_svg
from instil.run.search.space import Candidate, Scales, Space, space_of
from instil.run.search.wish import Choices, Limits, numbers
from instil.run.sections.student import StudentConfig
from project import project

pytestmark = pytest.mark.timeout(300)
WHOLE = Candidate(layers=4, encoder_layers=None, feed_forward=40, vocabulary="all")
NO_LIMIT = "--latency-ms=100000"


def scales(name: str = "llama", **tokens: int) -> Scales:
    shape = shape_of_config(name, tiny.tiny_model(name).config.to_dict())
    return Scales(shape=shape, tokens={"all": shape.vocabulary, **tokens}, source=10, target=5)


@pytest.mark.parametrize("name", ["llama", "t5", "gemma3"])
def test_what_arithmetic_weighs_is_what_the_student_has(name: str) -> None:
    model: Any = tiny.tiny_model(name)
    both = model.config.is_encoder_decoder
    shorter: Any = keep_layers(model, [0])
    candidate = Candidate(layers=1, encoder_layers=2 if both else None, feed_forward=None, vocabulary="all")
    weights = scales(name).weigh(candidate)
    assert weights["parameters"] == shorter.num_parameters() == weights["bytes"] / 4
    whole = scales(name).weigh(replace(candidate, layers=len(stack_of(model).layers)))
    assert whole["flops"] > weights["flops"] > scales(name).weigh(replace(candidate, feed_forward=8))["flops"]


def test_the_space_is_a_spread_of_what_the_teacher_has() -> None:
    space = space_of(Choices(), replace(WHOLE, layers=30, encoder_layers=3))
    assert space.layers == (4, 8, 11, 15, 19, 22, 26, 30) and space.encoder_layers == (1, 2, 3)
    assert space.feed_forward == (10, 20, 30, 40) and space.vocabulary == ("all", "used")
    chosen = space_of(Choices(layers=(2, 3), vocabulary=(100,)), WHOLE)
    assert {each.vocabulary for each in chosen.candidates()} == {100} and len(chosen.candidates()) == 2 * 4
    with pytest.raises(ConfigError, match="--layers 9, but the teacher has 4; give 1 to 4, or leave it out"):
        space_of(Choices(layers=(9,)), WHOLE)
    with pytest.raises(ConfigError, match="--encoder-layers 2, but the teacher has none that can be cut; leave it out"):
        space_of(Choices(encoder_layers=(2,)), WHOLE)


def test_a_section_says_only_what_differs_and_keeps_to_a_list_where_it_fits() -> None:
    space = space_of(Choices(), WHOLE)
    small = Candidate(layers=2, encoder_layers=None, feed_forward=10, vocabulary="used")
    listed = StudentConfig(choice="listed", keep=(0, 3), mend=False, calibration=9)
    found = space.section(small, listed)
    assert (found.keep, found.mend, found.calibration, found.layers) == ((0, 3), False, 9, None)
    assert found.width is not None and found.width.feed_forward == 10 and found.vocabulary is not None
    other = space.section(replace(WHOLE, layers=3), listed)
    assert (other.keep, other.mend, other.choice, other.layers) == (None, True, "block-influence", 3)
    assert other.width is None and other.vocabulary is None


def test_limits_leave_the_small_ones_or_name_the_nearest() -> None:
    space = Space(whole=WHOLE, layers=(1, 2), encoder_layers=(None,), feed_forward=(8, 48), vocabulary=("all",))
    weigh = scales().weigh
    sizes = sorted(weigh(each)["parameters"] for each in space.candidates())
    found = scales().within(space.candidates(), Limits(parameters=int(sizes[1])))
    assert [weigh(each)["parameters"] for each in found] == sizes[:2]
    with pytest.raises(ConfigError) as refused:
        scales().within(space.candidates(), Limits(bytes=1000))
    assert f"nearest (layers 1, feed forward 8, vocabulary all) has {4 * int(sizes[0]):,} bytes" in str(refused.value)
    assert "--max-bytes 1,000" in str(refused.value) and "\n" not in str(refused.value)


def _rated(latency: float, loss: float, layers: int = 1) -> Rated:
    weights = {"parameters": 10.0, "bytes": 40.0, "flops": 20.0}
    return Rated(
        candidate=replace(WHOLE, layers=layers), latency_ms=latency, teacher_ms=9.0, loss=loss, weights=weights
    )


def test_the_front_is_what_none_beats_in_time_and_loss() -> None:
    fast, slow, beaten, same = _rated(1, 3.0), _rated(4, 1.0), _rated(5, 2.0), _rated(4, 1.0, layers=2)
    assert front_of([beaten, slow, fast, same]) == [fast, slow]
    drawn = front_svg([fast, slow, beaten], slow)
    assert drawn.count("<circle") == 4 and drawn.count('class="front"') == 2 and drawn.startswith("<svg xmlns")
    assert front_svg([fast], fast).count("<circle") == 2


def test_a_candidate_is_given_up_only_behind_others_that_are_not_slower(tmp_path: Path) -> None:
    import optuna

    from instil.run.search.study import open_study, propose, tried

    space = Space(whole=WHOLE, layers=(1, 2, 3, 4), encoder_layers=(None,), feed_forward=(40,), vocabulary=("all",))
    study = open_study(tmp_path / "s.sqlite3", "one", 0, space.candidates())
    for latency, loss in ((10.0, 1.0), (11.0, 1.1), (30.0, 0.5)):
        trial, _ = propose(study, space, [each for each in space.candidates() if each not in tried(study)])
        trial.set_user_attr("latency_ms", latency)
        trial.report(loss, 1)
        study.tell(trial, loss)
    assert len(tried(study)) == 3
    outcomes = []
    for latency, loss in ((10.5, 1.2), (12.0, 1.2), (12.0, 1.05), (5.0, 9.0)):
        trial = study.ask()
        trial.set_user_attr("latency_ms", latency)
        assert not trial.should_prune()
        trial.report(loss, 1)
        outcomes.append(trial.should_prune())
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert outcomes == [False, True, False, False]
    alone = open_study(tmp_path / "s.sqlite3", "one", 0, ())
    trial = alone.ask()
    trial.set_user_attr("latency_ms", 12.0)
    trial.report(9.0, 1)
    assert not trial.should_prune()


def test_what_a_killed_search_was_at_is_tried_again(tmp_path: Path) -> None:
    from instil.run.search.study import open_study, propose, tried

    space = Space(whole=WHOLE, layers=(1, 2, 3, 4), encoder_layers=(None,), feed_forward=(40,), vocabulary=("all",))
    study = open_study(tmp_path / "s.sqlite3", "one", 0, space.candidates())
    trial, first = propose(study, space, space.candidates())
    study.tell(trial, 1.0)
    _, killed = propose(study, space, [each for each in space.candidates() if each != first])
    again = open_study(tmp_path / "s.sqlite3", "one", 0, space.candidates())
    assert set(tried(again)) == {first}
    assert propose(again, space, [each for each in space.candidates() if each != first])[1] == killed
    assert not tried(open_study(tmp_path / "s.sqlite3", "other", 0, ()))


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 2, "no limit, and without one the largest student is the best; give --latency-ms"),
        (["--latency-ms", "-3"], 2, "latency_ms: input should be greater than 0 (found -3"),
        (["--max-parameters", "0"], 2, "parameters: input should be greater than 0 (found 0)"),
        ([NO_LIMIT, "--layers", "two"], 2, "--layers two: 'two' is no number above 0; write it as --layers 6,12"),
        ([NO_LIMIT, "--write", "recipe.yaml"], 2, "--write recipe.yaml: is there already; give another name"),
        (["--max-parameters", "10"], 2, "no student of this teacher is so small; the nearest (layers 1"),
        (["--latency-ms", "0.001", "--minutes", "0.001"], 2, "no student that was tried is so fast; the nearest"),
    ],
)
def test_nonsense_is_refused_in_one_line(options: list[str], code: int, says: str, tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=60, teacher={"teach": None}, labels={"targets": "gold"})
    ended = instil("search", "recipe.yaml", *options, cwd=folder)
    assert ended.code == code, ended.err
    last = ended.err.strip().splitlines()[-1]
    assert says in last and "Traceback" not in ended.err


def test_numbers_of_an_option() -> None:
    assert numbers("6, 12,6", "--layers") == (6, 12) and numbers(None, "--layers") == ()
    assert numbers("all,used,900", "--vocabulary") == ("all", "used", 900)


SIZES = ("--layers", "1,2", "--feed-forward", "16,48", "--vocabulary", "all,used")
SEARCH = ("search", "recipe.yaml", NO_LIMIT, "--steps", "4", *SIZES, "--json")


def test_an_encoder_decoder_is_searched_from_end_to_end(tmp_path: Path) -> None:
    folder = project(tmp_path, "t5", pairs=60, teacher={"teach": None})
    ended = instil(*SEARCH, "--trials", "4", "--write", "best.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert 1 <= found["rated"] <= 4 and found["candidates"] == 16
    losses, times = ([row[key] for row in found["front"]] for key in ("loss", "latency_ms"))
    assert losses == sorted(losses, reverse=True) and times == sorted(times) and losses[-1] == found["chosen"]["loss"]
    assert (folder / found["plot"]).read_text().startswith("<svg")
    assert read_recipe(folder / "best.yaml").student == StudentConfig.model_validate(found["student"])
    again = instil(*SEARCH, "--trials", "4", cwd=folder)
    assert "search: reused" in again.err and json.loads(again.out)["chosen"] == found["chosen"]


def test_a_killed_search_of_a_decoder_goes_on_and_the_next_one_knows_its_trials(tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=60, teacher={"teach": None}, labels={"targets": "gold"})
    command = Command(*SEARCH, "--trials", "8", cwd=folder)
    file = folder / "runs" / "llama" / "search.sqlite3"
    while _finished(file) < 2:
        assert command.poll() is None, command.err
        time.sleep(0.05)
    command.signal(signal.SIGKILL)
    assert command.end().code == -signal.SIGKILL
    before = _finished(file)
    ended = instil(*SEARCH, "--trials", "8", cwd=folder)
    assert ended.code == 0, ended.err
    assert f"{before} candidates are known from before" in ended.err
    found = json.loads(ended.out)
    assert found["candidates"] == 8 >= found["rated"] >= 1
    other = instil(*SEARCH, "--trials", "1", "--max-parameters", "1000000", cwd=folder)
    assert other.code == 0 and f"{found['rated']} candidates are known from before" in other.err


def _finished(file: Path) -> int:
    """How many trials were rated or given up."""
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as memory:
            return int(
                memory.execute("select count(*) from trials where state in ('COMPLETE', 'PRUNED')").fetchone()[0]
            )
    except sqlite3.OperationalError:
        return 0
