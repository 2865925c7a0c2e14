"""`instil compare`: several ways to one student, from training to the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from command import instil
from instil.core.errors import ConfigError
from instil.evaluate.ways import compared, difference_interval, score_interval
from instil.run.compare.compare import read_plan
from project import project

WAYS = {"fine-tuned": {"distil.alpha": 0}, "distilled": {}, "lora": {"distil.adapt": {"kind": "lora", "rank": 2}}}


def comparison(folder: Path, **changes: Any) -> Path:
    project(folder, "llama", distil={"without_teacher": False, "loop": {"budget": {"steps": 2}}})
    told: dict[str, Any] = {
        "name": "ways",
        "recipe": "recipe.yaml",
        "seeds": 2,
        "against": "fine-tuned",
        "common": {
            "teacher.teach": None,
            "labels": {"head": 4, "temperatures": [2.0]},
            "evaluate.prompted": [{"name": "few-shot", "shots": 1}],
        },
        "ways": WAYS,
    }
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(told | changes, sort_keys=False), encoding="utf8")
    return path


@pytest.mark.timeout(300)
def test_ways_are_trained_once_and_told(tmp_path: Path) -> None:
    path = comparison(tmp_path, usd_per_hour=3.6)
    ended = instil("compare", path.name, "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert [way["name"] for way in found["ways"]] == list(WAYS)
    assert {way["seeds"] for way in found["ways"]} == {2} and found["against"] == "fine-tuned"
    by_name = {way["name"]: way for way in found["ways"]}
    assert by_name["fine-tuned"]["p_corrected"] is None and 0 < by_name["lora"]["p_corrected"] <= 1
    for way in found["ways"]:
        assert way["steps"] == 2 and way["usd"] == pytest.approx(way["train_seconds"] / 1000)
        assert np.mean(way["by_seed"]) == pytest.approx(way["score"]["value"])
    beside = {way["name"]: way for way in found["beside"]}
    assert set(beside) == {"teacher", "few-shot"} and all(way["p_corrected"] for way in beside.values())
    assert beside["few-shot"]["steps"] is None and beside["few-shot"]["parameters"] > 0
    trained = sorted(each.name for each in (tmp_path / "runs" / "ways").glob("distil-*"))
    assert len(trained) == 6
    assert len(list((tmp_path / "runs" / "ways").glob("data-*"))) == 1
    page = (tmp_path / "runs" / "ways" / "compare.html").read_text(encoding="utf8")
    best = max(found["ways"], key=lambda way: way["score"]["value"])["name"]
    assert re.fullmatch(r"instil export runs/ways/distil-\w+ --to ctranslate2", found["next"])
    recipe = yaml.safe_load((tmp_path / found["next"].split()[2] / "recipe.yaml").read_text(encoding="utf8"))
    assert recipe["distil"]["alpha"] == (0 if best == "fine-tuned" else 0.7)
    assert bool(recipe["distil"]["adapt"]["kind"] == "lora") == (best == "lora")
    assert page.count("<svg") >= 2 and "http:" not in page and found["verdict"][0].split("“")[0] in page

    again = instil("compare", path.name, "--md", cwd=tmp_path)
    assert again.code == 0 and again.err.count("reused") >= 8 and "done in" not in again.err
    assert "| distilled |" in again.out and "| few-shot |" in again.out


@pytest.mark.timeout(300)
def test_a_way_that_fails_is_named_and_the_others_are_compared(tmp_path: Path) -> None:
    ways = {"fine-tuned": {"distil.alpha": 0}, "broken": {"labels.store": "nowhere"}, "distilled": {}}
    path = comparison(tmp_path, ways=ways, seeds=1)
    ended = instil("compare", path.name, "--json", cwd=tmp_path)
    assert ended.code == 1 and "Traceback" not in ended.err, ended.err
    found = json.loads(ended.out)
    assert [way["name"] for way in found["ways"]] == ["fine-tuned", "distilled"]
    assert list(found["failed"]) == ["broken"] and re.match(
        r"seed \d+: nowhere.*no such folder", found["failed"]["broken"]
    )
    assert "broken, seed" in ended.err
    told = f"“broken” failed and is left out ({found['failed']['broken']}); the same command tries it again."
    assert told in found["verdict"]
    page = (tmp_path / "runs" / "ways" / "compare.html").read_text(encoding="utf8")
    assert "“broken” failed and is left out" in page

    path = comparison(tmp_path, ways={name: ways[name] for name in ("fine-tuned", "broken")}, seeds=1)
    lonely = instil("compare", path.name, cwd=tmp_path)
    assert lonely.code == 1 and "nothing is left to compare “fine-tuned” with" in lonely.said
    assert lonely.said.startswith("broken, seed ")
    path = comparison(tmp_path, ways=ways, seeds=1, against="broken")
    ended = instil("compare", path.name, cwd=tmp_path)
    assert ended.code == 1 and ended.said.startswith("broken, seed ")


def test_what_a_way_changes_in_a_common_section_stays_its_own(tmp_path: Path) -> None:
    ways = {"fine-tuned": {"distil.alpha": 0}, "stored": {"labels.store": "elsewhere"}, "distilled": {}}
    plan = read_plan(comparison(tmp_path, ways=ways))
    stores = [run.pipeline.recipe.labels.store for run in plan.runs]
    assert stores == [None, "elsewhere", None] * 2


def test_mistakes_are_named(tmp_path: Path) -> None:
    ways = WAYS | {"longer": {"distil.loop.budget": {"steps": 3}}}
    with pytest.raises(ConfigError, match="'longer' has a budget of 3 steps, 'fine-tuned' one of 2 steps"):
        read_plan(comparison(tmp_path, ways=ways))
    with pytest.raises(ConfigError, match="against is 'nobody', which is none of the ways"):
        read_plan(comparison(tmp_path, against="nobody"))
    with pytest.raises(ConfigError, match=r"ways\.lora\.distil\.alfa: .*unknown key; did you mean 'alpha'"):
        read_plan(comparison(tmp_path, ways=WAYS | {"lora": {"distil.alfa": 0}}))
    with pytest.raises(ConfigError, match="differ in section evaluate"):
        read_plan(comparison(tmp_path, ways=WAYS | {"lora": {"evaluate.items": 3}}))


def test_intervals_hold_the_truth_over_items_and_seeds() -> None:
    """300 simulated comparisons of two equal ways with noise of items and of seeds: nominal 95%."""
    dice = np.random.default_rng(0)
    held = differ = 0
    for trial in range(300):
        items = dice.normal(30, 10, 80)
        first, second = (items + dice.normal(0, 5, (6, 80)) + dice.normal(0, 1, (6, 1)) for _ in range(2))
        interval = difference_interval(first, second, seed=trial, resamples=400)
        held += interval.low <= 0 <= interval.high
        own = score_interval(first, seed=trial, resamples=400)
        differ += own.low <= first.mean() <= own.high
    assert 0.88 <= held / 300 <= 0.99 and differ == 300


def test_one_way_better_by_far_is_found() -> None:
    dice = np.random.default_rng(1)
    base = dice.normal(30, 10, (2, 60))
    found = compared(
        {"base": base, "same": base.copy(), "better": base + 4 + dice.normal(0, 1, (2, 60))}, "base", seed=0
    )
    assert "p_value" not in found["base"]
    assert found["same"]["p_corrected"] == 1.0 and found["same"]["difference"].value == 0
    assert found["better"]["p_corrected"] < 0.001 and found["better"]["difference"].low > 1
