"""`instil plan`: what it chooses, says and refuses."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command import instil
from instil.core import console, units
from instil.core.errors import ConfigError, DataError, ModelError
from instil.plan import prices
from instil.plan.answer import answer, as_json, lines
from instil.plan.breakeven import BreakEven, Served
from instil.plan.choice import Candidate, candidates, choose, pareto
from instil.plan.hardware import accelerators
from instil.plan.layout import Layout
from instil.plan.memory import capacity
from instil.plan.models import find_model, known_models
from instil.plan.shape import parameters
from instil.plan.stages import Stage
from instil.plan.wish import Wish, read_count, read_hours, share_vocabulary, student_shape
from instil.run.report.plan_plot import break_even_svg

ROOT = Path(__file__).parents[1]
ASKED = ("plan", "--teacher", "gemma-3-27b", "--student", "gemma-3-4b", "--examples", "50k")
OFFERED = prices.built_in()


def wish(**more: Any) -> Wish:
    """The wish of the documents, with changes."""
    return Wish(**{"teacher": "gemma-3-27b", "student": "gemma-3-4b", "examples": 50_000, "cloud": "azure", **more})


@pytest.fixture
def own_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's prices of the user are kept."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return prices.user_file()


def test_the_plan_of_the_documents(tmp_path: Path) -> None:
    lengths = ("--source-tokens", "800", "--target-tokens", "120", "--within", "3h", "--cloud", "azure")
    ended = instil(*ASKED, *lengths, "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    plan = told["plan"]
    assert plan["hours"] <= 3 and plan["cloud"] == "azure" and plan["usd"] > 0
    assert plan["hours_interval"][0] < plan["hours"] < plan["hours_interval"][1]
    assert plan["price_date"] in told["verdict"]
    assert plan["peak_bytes"] <= capacity(accelerators()[plan["accelerator"]])
    assert sum(stage["hours"] for stage in plan["stages"]) == pytest.approx(plan["hours"], rel=1e-2)
    assert told["break_even"]["pays"] and told["break_even"]["requests"] > 0
    assert [stage["name"] for stage in plan["stages"]] == ["start", "label", "train", "save", "evaluate"]
    assert {loser["what"].partition(":")[0] for loser in told["losers"]} >= {"the cheapest machine by the hour"}


def test_it_answers_within_a_second_and_without_torch() -> None:
    code = (
        "import sys; from instil.run import cli\n"
        f"try: cli.main({[*ASKED, '--json']!r})\n"
        "finally: print(sorted({'torch', 'transformers', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )

    def cost() -> tuple[float, str]:
        before = os.times()
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        return spent, ended.stdout.splitlines()[-1]

    found = [cost() for _ in range(3)]
    assert min(spent for spent, _ in found) < 1.0
    assert {loaded for _, loaded in found} == {"[]"}


def test_a_tpu_on_azure_gets_the_truth(tmp_path: Path) -> None:
    ended = instil(*ASKED, "--cloud", "azure", "--gpu", "v5e", cwd=tmp_path)
    assert ended.code == 2
    assert ended.said.startswith("Azure rents no TPUs")


def test_a_tpu_on_google_cloud_is_planned_with_a_remark() -> None:
    found = answer(wish(cloud="gcp", gpu="v5e"), OFFERED)
    assert found.choice.best and found.choice.best.instance.accelerator == "TPU-v5e"
    assert any("has not been run on TPUs" in line for line in lines(found))
    assert all(not each.instance.device.is_tpu for each in answer(wish(cloud="gcp"), OFFERED).choice.pareto)


def test_adapters_on_4_bit_weights_are_chosen_where_they_are_cheapest_and_never_on_a_tpu() -> None:
    small = wish(teacher="qwq-32b", student="qwq-32b", examples=2_000, gpus=1, gpu="A100-SXM-40GB", cloud=None)
    choice = choose(small, OFFERED)
    assert choice.best is None and choice.nearest is not None and choice.nearest.way == "labels-qlora"
    models = (find_model(name) for name in ("gemma-3-27b", "gemma-3-4b"))
    ways = {each.way for each in candidates(wish(), *models, prices.select(OFFERED, cloud="gcp", gpu="v5e"))}
    assert ways == {"labels", "labels-lora", "online"}


def test_an_impossible_wish_gets_no_plan_and_the_nearest(tmp_path: Path) -> None:
    impossible = ("--teacher", "llama-3.1-405b", "--student", "llama-3.1-8b", "--examples", "50k", "--within", "3h")
    ended = instil("plan", *impossible, "--gpu", "T4", "--gpus", "1", "--json", cwd=tmp_path)
    assert ended.code == 1
    told = json.loads(ended.out)
    assert told["plan"] is None and told["verdict"].startswith("No plan: ")
    assert "needs 820 GB of each device, which has 16 GB" in told["obstacle"]
    assert told["nearest"]["accelerator"] != "T4" and told["nearest"]["hours"] > 0


def test_a_limit_that_nothing_meets_names_the_nearest() -> None:
    found = answer(wish(budget_usd=1), OFFERED)
    assert found.choice.best is None and found.choice.nearest is not None
    assert found.choice.nearest.usd == min(each.usd for each in found.choice.pareto)


def test_when_distilling_does_not_pay_it_says_so_first() -> None:
    found = answer(wish(teacher="gemma-3-4b", student="gemma-3-1b", requests_per_day=100), OFFERED)
    assert lines(found)[0].startswith("Distilling does not pay at 100 requests a day: ")
    assert found.choice.best is not None
    assert as_json(found)["break_even"]["days"] is None


def test_a_tighter_limit_is_met_by_more_money() -> None:
    hours = [27.0, 3.0, 1.0, 0.5]
    plans = [choose(wish(within_hours=each), OFFERED).best for each in hours]
    assert all(plan is not None and plan.hours <= limit for plan, limit in zip(plans, hours, strict=True))
    fastest = [plan.usd for plan in plans if plan]
    assert fastest[-1] > fastest[0]


def test_the_frontier_is_not_beaten() -> None:
    found = choose(wish(), OFFERED)
    for each in found.pareto:
        assert not any(other.hours < each.hours and other.usd < each.usd for other in found.pareto)
    assert [each.hours for each in found.pareto] == sorted(each.hours for each in found.pareto)


points = st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=1, max_size=20)


@given(points)
def test_every_candidate_is_on_the_frontier_or_beaten_by_it(found: list[tuple[float, float]]) -> None:
    made = [
        Candidate(
            way="labels", instance=OFFERED[0], machines=1, usd=usd,
            stages=(Stage(name="train", seconds=hours * 3600, layout=Layout(), peak=0.0),),
        )
        for hours, usd in found
    ]  # fmt: skip
    kept = pareto(made)
    assert all(any(best.hours <= each.hours and best.usd <= each.usd for best in kept) for each in made)


@settings(max_examples=8, deadline=None)
@given(examples=st.integers(1_000, 2_000_000), target=st.integers(10, 500))
def test_more_data_costs_more(examples: int, target: int) -> None:
    once = choose(wish(examples=examples, target_tokens=target), OFFERED).pareto
    twice = choose(wish(examples=2 * examples, target_tokens=target), OFFERED).pareto
    assert min(each.usd for each in twice) > min(each.usd for each in once)
    assert min(each.hours for each in twice) > min(each.hours for each in once)


def test_labels_of_another_tokenizer_are_refused_with_two_ways_out() -> None:
    with pytest.raises(ConfigError, match=r"other tokenizers .* --targets teacher.* --student phi-4@20"):
        choose(wish(teacher="phi-4", student="qwen2.5-3b"), OFFERED)
    found = choose(wish(teacher="phi-4", student="qwen2.5-3b", targets="teacher"), OFFERED)
    assert found.best and "label" not in {stage.name for stage in found.best.stages}
    assert "write" in {stage.name for stage in found.best.stages}


def test_a_student_larger_than_its_teacher_is_refused() -> None:
    with pytest.raises(ConfigError, match="is larger than the teacher"):
        choose(wish(teacher="gemma-3-4b", student="gemma-3-27b"), OFFERED)


@pytest.mark.parametrize(
    ("ref", "teacher", "name"),
    [("4b", "gemma-3-27b", "gemma-3-4b"), ("3b", "qwq-32b", "qwen2.5-3b"), ("phi-4@10", "phi-4", "phi-4@10"),
     ("7b", "phi-4", "phi-4@18"), ("600m", "qwen3-8b", "qwen3-0.6b")],
)  # fmt: skip
def test_a_student_may_be_a_size_or_a_cut(ref: str, teacher: str, name: str) -> None:
    student = student_shape(ref, known_models()[teacher])
    assert student.name == name
    assert share_vocabulary(student, known_models()[teacher])
    assert parameters(student) < parameters(known_models()[teacher])


@pytest.mark.parametrize(("ref", "says"), [("phi-4@0", "has 40 layers"), ("0.1b", "no student"), ("x", "unknown")])
def test_a_student_that_cannot_be_is_named(ref: str, says: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=says):
        student_shape(ref, known_models()["phi-4"])


@pytest.mark.parametrize(("text", "number"), [("50k", 50_000), ("1.5M", 1_500_000), ("2000", 2_000)])
def test_counts_read_as_people_write_them(text: str, number: int) -> None:
    assert read_count(text) == number


@pytest.mark.parametrize("text", ["", "many", "-3", "1.2.3k", "0"])
def test_what_is_no_count_or_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no count"):
        read_count(text)
    with pytest.raises(ConfigError, match="is no time"):
        read_hours(text)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"source_tokens": 200_000}, ["gemma-3-27b has places for 131,072", "gemma-3-4b has places for 131,072"]),
        ({"source_tokens": 131_000, "target_tokens": 72}, []),
        ({"source_tokens": 131_000, "target_tokens": 73}, ["gemma-3-27b has", "gemma-3-4b has"]),
        ({"teacher": "bart-large", "student": "bart-base", "source_tokens": 1000, "target_tokens": 1000}, []),
        ({"teacher": "bart-large", "student": "bart-base", "source_tokens": 1100}, ["bart-large has", "bart-base has"]),
        ({"teacher": "t5-large", "student": "t5-small", "source_tokens": 9000}, []),
    ],
)
def test_examples_longer_than_a_model_are_told(more: dict[str, Any], told: list[str]) -> None:
    found = answer(wish(**more), OFFERED)
    notes = [line for line in lines(found) if line.startswith("note: ")]
    assert len(notes) == len(told) and all(each in note for each, note in zip(told, notes, strict=True))
    assert as_json(found)["remarks"] == [note.removeprefix("note: ") for note in notes]


def test_times_read_as_people_write_them() -> None:
    assert [read_hours(text) for text in ("3h", "90m", "2d", "27")] == [3, 1.5, 48, 27]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--teacher", "gemma-3-27b"), "--student, --examples missing"),
        ((*ASKED[1:], "--targets", "mine"), "targets: is 'mine'; choose one of given, teacher"),
        ((*ASKED[1:], "--cloud", "aws"), "--cloud aws: no prices; known are azure, gcp"),
        ((*ASKED[1:], "--grid", "mars"), "unknown grid 'mars'"),
        (("--recipe", "nope.yaml"), "nope.yaml: cannot be read"),
        ((*ASKED[1:], "--epochs", "inf"), "epochs: input should be a finite number"),
        ((*ASKED[1:], "--epochs", "1e308"), "epochs: input should be less than or equal to 1000000"),
        ((*ASKED[1:], "--source-tokens", "inf"), "source_tokens: input should be a finite number"),
        ((*ASKED[1:], "--target-tokens", "nan"), "target_tokens: input should be a finite number"),
        ((*ASKED[1:], "--grid", "-5"), "grid is -5; give grams of CO2 a kWh from 0 to 10,000, or a region"),
        ((*ASKED[1:], "--grid", "nan"), "grid is nan"),
        ((*ASKED[1:], "--grid", "inf"), "grid is inf"),
        ((*ASKED[1:], "--student", "0b"), "student '0b' is no size; write it as 4b or 350m"),
        ((*ASKED[1:], "--examples", "9" * 400), "is no count"),
        (("prices", "--cloud", "aws"), "--cloud aws: no prices; known are azure, gcp"),
    ],
)
def test_misuse_ends_with_two_and_one_line(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    ended = instil("plan", *options, cwd=tmp_path)
    assert ended.code == 2 and says in ended.said


def test_a_plot_is_no_folder(tmp_path: Path) -> None:
    ended = instil(*ASKED, "--plot", ".", cwd=tmp_path)
    assert ended.code == 2 and "'--plot': file '.' is a directory" in ended.err and not ended.out


def test_what_is_no_number_is_no_json_either(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit_json({"days": math.inf, "rows": [(1.5, math.nan)], "name": Path("x")})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "days": None, "rows": [[1.5, None]], "name": "x",
    }  # fmt: skip


def test_time_without_end_is_said() -> None:
    assert units.seconds(math.inf) == "for ever"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "plan").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_wish_that_ships_has_a_plan(path: Path, tmp_path: Path) -> None:
    ended = instil("plan", "--recipe", str(path), "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert told["plan"]["hours"] <= (3 if "3h" in path.stem else 27)


def test_no_price_is_without_its_date_and_source() -> None:
    for each in OFFERED:
        assert each.date and each.source and (each.usd or each.spot), each
    assert not any(each.device.is_tpu for each in OFFERED if each.cloud == "azure")
    assert all(device.source for device in accelerators().values())


def test_prices_of_ones_own_go_over_those_that_ship(own_prices: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text(
        "cloud,instance,accelerators,accelerator,usd_per_h,spot_usd_per_h,region,date\n"
        "azure,Standard_ND96isr_H100_v5,8,H100-SXM-80GB,1.5,,eastus,2026-11-01\n"
        "cellar,tower,1,RTX4090-24GB,0.2,,home,2026-11-02\n"
    )
    assert len(prices.update(mine)) == 2 and own_prices.is_file()
    known = {(each.cloud, each.name): each for each in prices.instances()}
    assert known["azure", "Standard_ND96isr_H100_v5"].usd == 1.5
    assert known["cellar", "tower"].date == "2026-11-02"
    assert len(known) == len(OFFERED) + 1
    best = choose(wish()).best
    assert best and (best.instance.name, best.instance.date) == ("Standard_ND96isr_H100_v5", "2026-11-01")
    mine.write_text("cloud,instance,accelerators,accelerator,usd_per_h,date\ncellar,tower,1,T4,0.1,2026-11-03\n")
    prices.update(mine)
    assert {each.date for each in prices.instances() if each.cloud == "azure"} >= {"2026-11-01"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("azure,x,8,H100-SXM-80GB,5,", "mine.csv:2: a price needs its date"),
        ("azure,x,8,H100,5,2026-01-01", "mine.csv:2: accelerator is 'H100'"),
        ("azure,x,8,H100-SXM-80GB,much,2026-01-01", "mine.csv:2: could not convert"),
        ("azure,x,8,H100-SXM-80GB,-5,2026-01-01", "mine.csv:2: accelerators and prices must be above 0"),
    ],
)
def test_a_mistake_in_prices_is_named_by_line(row: str, says: str, own_prices: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text(f"cloud,instance,accelerators,accelerator,usd_per_h,date\n{row}\n")
    with pytest.raises(DataError, match=says):
        prices.update(mine)
    assert not own_prices.exists()


def _served(usd_per_day: float) -> Served:
    return Served(instance=OFFERED[0], machines=1, usd_per_day=usd_per_day, usd_per_request=0.0, kwh_per_day=1.0)


def test_break_even_can_be_drawn(tmp_path: Path) -> None:
    ended = instil(*ASKED, "--plot", "pays.svg", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    drawn = ElementTree.parse(tmp_path / "pays.svg").getroot()
    days = json.loads(ended.out)["break_even"]["days"]
    told = drawn.find("{http://www.w3.org/2000/svg}desc")
    assert told is not None and f"after {days:.1f} days" in (told.text or "")
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}circle")) == 1
    never = BreakEven(cost=300, teacher=_served(20), student=_served(20), requests_per_day=1000)
    assert "<circle" not in break_even_svg(never) and "has paid never" in break_even_svg(never)
    with pytest.raises(ConfigError, match="there is no plan"):
        break_even_svg(None)


def test_break_even_is_cost_over_saving() -> None:
    found = BreakEven(cost=300, teacher=_served(50), student=_served(20), requests_per_day=1000)
    assert (found.saving, found.days, found.requests, found.pays) == (30, 10, 10_000, True)
    never = BreakEven(cost=300, teacher=_served(20), student=_served(20), requests_per_day=1000)
    assert math.isinf(never.days) and not never.pays


def test_prices_are_listed_with_their_dates(tmp_path: Path) -> None:
    listed = json.loads(instil("plan", "prices", "--cloud", "azure", "--json", cwd=tmp_path).out)
    assert listed and all(row["cloud"] == "azure" and row["date"] for row in listed)
    assert "2026-10-06" in instil("plan", "prices", cwd=tmp_path).out


def test_models_are_listed_with_their_parts(tmp_path: Path) -> None:
    listed = json.loads(instil("plan", "models", "--json", cwd=tmp_path).out)
    assert sum(listed["gemma-3-27b"]["parts"].values()) == 27_432_406_640


def test_choosing_is_quick() -> None:
    started = time.process_time()
    choose(wish(cloud=None), OFFERED)
    assert time.process_time() - started < 0.6
