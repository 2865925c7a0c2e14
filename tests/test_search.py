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
from instil.data.tokens import Encoded
from instil.models.family import family_of
from instil.models.layers import stack_of
from instil.models.students.anatomy import ANATOMIES
from instil.models.students.depth import keep_layers
from instil.models.students.plan import Widths
from instil.models.students.sizes import sizes_of
from instil.models.students.width import cut_width
from instil.plan.configs import shape_of_config
from instil.run.recipe_file import read_recipe
from instil.run.search.front import Rated, front_of, front_svg
from instil.run.search.space import Candidate, Frame, Scales, Space, space_of
from instil.run.search.wish import Choices, Limits, numbers
from instil.run.sections.student import StudentConfig
from project import project

pytestmark = pytest.mark.timeout(300)
WHOLE = Candidate(layers=4, encoder_layers=None, hidden=None, feed_forward=40, heads=None, vocabulary="all")
NO_LIMIT = "--latency-ms=100000"


def scales(name: str = "llama", **tokens: int) -> Scales:
    shape = shape_of_config(name, tiny.tiny_model(name).config.to_dict())
    tokens = {"all": shape.vocabulary, **tokens}
    return Scales(shape=shape, frame=frame_of(name), tokens=tokens, source=10, target=5)


def frame_of(name: str) -> Frame:
    config = tiny.tiny_model(name).config
    anatomy = ANATOMIES[config.model_type]
    return Frame(teacher=sizes_of(config, anatomy), anatomy=anatomy)


def small_space(**choices: Any) -> Space:
    """Of a decoder with four layers, whose width cannot be cut."""
    axes = {"layers": (1, 2, 3, 4), "encoder_layers": (None,), "feed_forward": (40,), "vocabulary": ("all",)}
    return Space(whole=WHOLE, **{**axes, "pairs": ((None, None),), **choices})


@pytest.mark.parametrize("name", ["llama", "t5", "gemma3"])
def test_what_arithmetic_weighs_is_what_the_student_has(name: str) -> None:
    model: Any = tiny.tiny_model(name)
    both = model.config.is_encoder_decoder
    shorter: Any = keep_layers(model, [0])
    candidate = replace(WHOLE, layers=1, encoder_layers=2 if both else None, feed_forward=None)
    weights = scales(name).weigh(candidate)
    assert weights["parameters"] == shorter.num_parameters() == weights["bytes"] / 4
    whole = scales(name).weigh(replace(candidate, layers=len(stack_of(model).layers)))
    assert whole["flops"] > weights["flops"] > scales(name).weigh(replace(candidate, feed_forward=8))["flops"]


def test_the_space_is_a_spread_of_what_the_teacher_has() -> None:
    space = space_of(Choices(), replace(WHOLE, layers=30, encoder_layers=3), None)
    assert space.layers == (4, 8, 11, 15, 19, 22, 26, 30) and space.encoder_layers == (1, 2, 3)
    assert space.feed_forward == (10, 20, 30, 40) and space.vocabulary == ("all", "used")
    chosen = space_of(Choices(layers=(2, 3), vocabulary=(100,)), WHOLE, None)
    assert {each.vocabulary for each in chosen.candidates()} == {100} and len(chosen.candidates()) == 2 * 4
    with pytest.raises(ConfigError, match="--layers 9, but the teacher has 4; give 1 to 4, or leave it out"):
        space_of(Choices(layers=(9,)), WHOLE, None)
    with pytest.raises(ConfigError, match="--encoder-layers 2, but the teacher has none that can be cut; leave it out"):
        space_of(Choices(encoder_layers=(2,)), WHOLE, None)


def test_a_section_says_only_what_differs_and_keeps_to_a_list_where_it_fits() -> None:
    space = space_of(Choices(), WHOLE, None)
    small = replace(WHOLE, layers=2, feed_forward=10, vocabulary="used")
    listed = StudentConfig(choice="listed", keep=(0, 3), mend=False, calibration=9)
    found = space.section(small, listed)
    assert (found.keep, found.mend, found.calibration, found.layers) == ((0, 3), False, 9, None)
    assert found.width is not None and found.width.feed_forward == 10 and found.vocabulary is not None
    other = space.section(replace(WHOLE, layers=3), listed)
    assert (other.keep, other.mend, other.choice, other.layers) == (None, True, "block-influence", 3)
    assert other.width is None and other.vocabulary is None


@pytest.mark.parametrize("name", ["llama", "t5_gated", "gemma3", "qwen3", "phi3", "bart", "gptj"])
def test_what_arithmetic_weighs_of_widths_is_what_the_student_has(name: str) -> None:
    model: Any = tiny.tiny_model(name)
    both = model.config.is_encoder_decoder
    whole = replace(WHOLE, layers=2, encoder_layers=2 if both else None, hidden=32, feed_forward=None, heads=4)
    weigh = scales(name).weigh
    assert weigh(whole)["parameters"] == model.num_parameters()
    examples = [Encoded(str(n), (5, 6, 7, n, tiny.END), (8, n, tiny.END)) for n in range(10, 14)]
    for pair in space_of(Choices(hidden=(16, 32), heads=(2, 4)), whole, frame_of(name)).pairs:
        hidden, heads = pair
        narrow: Any = cut_width(model, Widths(hidden=hidden, heads=heads), family_of(model), examples, mend=False)[0]
        weights = weigh(replace(whole, hidden=hidden, heads=heads))
        assert weights["parameters"] == narrow.num_parameters()
        assert weights["flops"] < weigh(whole)["flops"] or pair == (32, 4)


def test_hidden_channels_and_heads_are_searched_only_where_asked_and_only_as_they_go_together() -> None:
    whole = replace(WHOLE, layers=1, hidden=32, heads=4)
    plain, shared = frame_of("llama"), frame_of("gpt2")
    assert space_of(Choices(), whole, plain).pairs == space_of(Choices(), whole, shared).pairs == ((32, 4),)
    assert space_of(Choices(hidden=(12, 32)), whole, plain).pairs == ((12, 4), (32, 4))
    assert space_of(Choices(heads=(2, 4)), whole, plain).pairs == ((32, 2), (32, 4))
    # Where heads share the channels, eight of them to a head.
    assert space_of(Choices(hidden=(16, 24)), whole, shared).pairs == ((16, 2), (24, 3))
    assert space_of(Choices(heads=(1, 4)), whole, shared).pairs == ((8, 1), (32, 4))
    both = space_of(Choices(hidden=(32, 16), heads=(2, 4), layers=(1,), feed_forward=(40,)), whole, shared)
    assert both.pairs == ((32, 4), (16, 2)) and both.hidden == (32, 16) and both.heads == (4, 2)
    wide, narrow = (each for each in both.candidates() if each.vocabulary == "all")
    assert (wide.hidden, wide.heads, narrow.hidden, narrow.heads) == (32, 4, 16, 2)
    assert wide.covers(narrow, {"all": 9}) and not narrow.covers(wide, {"all": 9})


@pytest.mark.parametrize(
    ("name", "choices", "says"),
    [
        ("llama", {"hidden": (33,)}, "--hidden 33, but the teacher has 32; give 1 to 32, or leave it out"),
        ("llama", {"heads": (5,)}, "--heads 5, but the teacher has 4"),
        ("llama", {"heads": (2, 3)}, "3 heads cannot share 2 key-value heads evenly"),
        ("gpt2", {"hidden": (16, 20)}, "hidden 20 is not 4 heads of 8 channels"),
        ("gpt2", {"hidden": (16, 24), "heads": (2,)}, "hidden 24 is not 2 heads of 8 channels"),
    ],
)
def test_widths_that_go_with_nothing_are_refused_in_one_line(name: str, choices: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        space_of(Choices(**choices), replace(WHOLE, hidden=32, heads=4), frame_of(name))
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="but the teacher has none that can be cut; leave it out"):
        space_of(Choices(**choices), WHOLE, None)


def test_a_section_has_the_widths_that_differ() -> None:
    whole = replace(WHOLE, hidden=32, heads=4)
    space = space_of(Choices(hidden=(16, 32), heads=(2, 4)), whole, frame_of("llama"))
    found = space.section(replace(whole, hidden=16, heads=2), None).width
    assert found is not None and found.widths() == Widths(hidden=16, heads=2)
    found = space.section(replace(whole, heads=2, feed_forward=10), None).width
    assert found is not None and found.widths() == Widths(heads=2, feed_forward=10)
    assert space.section(replace(whole, layers=3), None).width is None


def test_limits_leave_the_small_ones_or_name_the_nearest() -> None:
    space = small_space(layers=(1, 2), feed_forward=(8, 48))
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

    space = small_space()
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

    space = small_space()
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
        ([NO_LIMIT, "--hidden", "wide"], 2, "--hidden wide: 'wide' is no number above 0; write it as --hidden 6,12"),
        ([NO_LIMIT, "--heads", "3"], 2, "3 heads cannot share 2 key-value heads evenly, at most 2 each"),
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
    before = _finished(file, mode="rw")  # What the kill tore is mended on reading, which needs to write.
    ended = instil(*SEARCH, "--trials", "8", cwd=folder)
    assert ended.code == 0, ended.err
    assert f"{before} candidates are known from before" in ended.err
    found = json.loads(ended.out)
    assert found["candidates"] == 8 >= found["rated"] >= 1
    other = instil(*SEARCH, "--trials", "1", "--max-parameters", "1000000", cwd=folder)
    assert other.code == 0 and f"{found['rated']} candidates are known from before" in other.err


def test_hidden_channels_and_heads_are_searched_from_end_to_end(tmp_path: Path) -> None:
    """A search of other axes beside them begins anew, and a recipe with what it chose can be read."""
    folder = project(tmp_path, "llama", pairs=60, teacher={"teach": None}, labels={"targets": "gold"})
    one = ("search", "recipe.yaml", NO_LIMIT, "--steps", "2", "--layers", "1", "--feed-forward", "16")
    one = (*one, "--vocabulary", "all", "--json", "--trials", "2")
    ended = instil(*one, "--hidden", "16,32", "--heads", "2", "--write", "best.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["candidates"] == found["rated"] == 2 and found["chosen"]["heads"] == 2
    assert found["chosen"]["hidden"] in (16, 32) and {row["heads"] for row in found["front"]} == {2}
    assert found["student"]["width"]["heads"] == 2 and found["student"]["width"].get("hidden") in (None, 16)
    chosen = f"hidden {found['chosen']['hidden']}, feed forward 16, heads 2"
    assert chosen in (folder / found["plot"]).read_text()
    assert read_recipe(folder / "best.yaml").student == StudentConfig.model_validate(found["student"])
    other = instil(*one, cwd=folder)
    assert other.code == 0 and "known from before" not in other.err, other.err
    chosen = json.loads(other.out)["chosen"]
    assert (chosen["hidden"], chosen["heads"]) == (32, 4)


def _finished(file: Path, mode: str = "ro") -> int:
    """How many trials were rated or given up."""
    try:
        with sqlite3.connect(f"file:{file}?mode={mode}", uri=True) as memory:
            return int(
                memory.execute("select count(*) from trials where state in ('COMPLETE', 'PRUNED')").fetchone()[0]
            )
    except sqlite3.OperationalError:
        return 0
