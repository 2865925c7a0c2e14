"""Energy by counters of our own making, by codecarbon where it is installed, by stated watts; throughput and price."""

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import tiny
from instil.evaluate import energy, load
from instil.evaluate.costs import measure_costs
from instil.evaluate.energy import measure_energy
from instil.evaluate.latency import latency_of
from instil.evaluate.load import LoadPlan, measure_loads


def counters(folder: Path, *counts: int) -> list[Path]:
    """A powercap folder with a package for each of `counts`, and a core inside each, which must not count."""
    packages = []
    for number, count in enumerate(counts):
        for name in (f"intel-rapl:{number}", f"intel-rapl:{number}:0"):
            (folder / name).mkdir(parents=True)
            (folder / name / "energy_uj").write_text(f"{count}\n")
            (folder / name / "max_energy_range_uj").write_text("1000000\n")
        packages.append(folder / f"intel-rapl:{number}" / "energy_uj")
    return packages


def test_packages_are_added_and_a_counter_may_run_over(tmp_path: Path) -> None:
    first, second = counters(tmp_path, 100, 900_000)

    def work() -> None:
        first.write_text("500100")
        second.write_text("200000")

    found, seconds = measure_energy(work, powercap=tmp_path)
    assert found is not None and found.method == "rapl"
    assert found.joules == pytest.approx(0.5 + 0.3)
    assert seconds > 0


def test_estimated_from_watts_or_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda name: None)
    found, seconds = measure_energy(lambda: time.sleep(0.02), watts=50, powercap=tmp_path)
    assert found is not None and found.method == "estimated"
    assert found.joules == 50 * seconds >= 1
    assert measure_energy(lambda: None, powercap=tmp_path)[0] is None


@pytest.mark.skipif(importlib.util.find_spec("codecarbon") is None, reason="codecarbon is an extra")
def test_codecarbon_is_asked(tmp_path: Path) -> None:
    found, _ = measure_energy(lambda: time.sleep(1.2), powercap=tmp_path)
    assert found is not None and found.method == "codecarbon"
    assert 0 < found.joules < 2000
    assert list(tmp_path.iterdir()) == [], "nothing is written"


class Clerk:
    """Writes ten tokens an item; a batch takes as long as an item."""

    name, parameters, bytes = "clerk", 1, 1
    tokenizer = tiny.tiny_tokenizer("decoder-only")

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        for _ in range(0, len(sources), batch_size):
            time.sleep(0.01 if max_new_tokens > 1 else 0.002)
        return ["x" * 9 for _ in sources]


def test_throughput_energy_and_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(
        load, "measure_energy", lambda work, watts: measure_energy(work, watts=watts, powercap=tmp_path)
    )
    plan = LoadPlan(batch_sizes=(1, 4), watts=100, usd_per_hour=3.6)
    one, four = measure_loads({"clerk": Clerk()}, ["a"] * 8, plan, max_new_tokens=16)["clerk"]
    assert (one.batch_size, four.batch_size, one.items) == (1, 4, 8)
    assert one.items_per_second < 100 and four.items_per_second > one.items_per_second
    assert one.tokens_per_second == pytest.approx(10 * one.items_per_second)
    assert one.joules_per_item == pytest.approx(100 / one.items_per_second)
    assert one.energy_method == "estimated"
    assert one.usd_per_million_tokens is not None and one.tokens_per_second is not None
    assert one.usd_per_million_tokens == pytest.approx(0.001 / one.tokens_per_second * 1e6)


def test_first_token_and_percentiles() -> None:
    costs = measure_costs({"clerk": Clerk()}, ["a"] * 6, max_new_tokens=16, batch_size=2, items=6, seed=0)["clerk"]
    assert costs.loads == ()
    found = latency_of(costs.milliseconds, first_token=costs.first_token, seed=0)
    assert found.first_token is not None and found.p99 is not None
    assert 2 <= found.first_token.value < 10 <= found.p50.value <= found.p95.value <= found.p99.value
    assert latency_of(range(1, 201), seed=0).p99.value == pytest.approx(198.01)  # type: ignore[union-attr]
