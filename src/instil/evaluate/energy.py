"""The energy that a piece of work takes: counted by the processor, told by codecarbon, or estimated from stated watts.

Processors count joules of their packages in Linux's powercap files (RAPL), which mostly only root may read. codecarbon
is asked where it is installed; it reads GPUs too, and estimates by the processor's model what it cannot read. None of
the three knows what other programs took at the same time.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Method = Literal["rapl", "codecarbon", "estimated"]
POWERCAP = Path("/sys/class/powercap")
_JOULES_A_KWH = 3_600_000.0


class Energy(BaseModel):
    """Joules and how they came to be known; `estimated` is time x stated watts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    joules: float
    method: Method


def measure_energy(
    work: Callable[[], object], *, watts: float | None = None, powercap: Path = POWERCAP
) -> tuple[Energy | None, float]:
    """What `work` takes and the seconds it lasts; None where no counter can be read, codecarbon is not installed and no
    `watts` are stated."""
    packages = _readable(powercap)
    if packages:
        before = _counts(packages)
        seconds = _timed(work)
        return Energy(joules=_since(packages, before), method="rapl"), seconds
    if importlib.util.find_spec("codecarbon"):
        return _by_codecarbon(work)
    seconds = _timed(work)
    return (None if watts is None else Energy(joules=watts * seconds, method="estimated")), seconds


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _readable(powercap: Path) -> list[Path]:
    """The folders of the packages, whose counters include their cores'."""
    found = []
    for folder in sorted(powercap.glob("*-rapl:*")):
        if folder.name.count(":") == 1:
            try:
                (folder / "energy_uj").read_text()
            except OSError:
                continue
            found.append(folder)
    return found


def _counts(packages: list[Path]) -> list[int]:
    return [int((folder / "energy_uj").read_text()) for folder in packages]


def _since(packages: list[Path], before: list[int]) -> float:
    total = 0
    for folder, then, now in zip(packages, before, _counts(packages), strict=True):
        # A counter that ran over begins anew.
        total += now - then if now >= then else now + int((folder / "max_energy_range_uj").read_text()) - then
    return total / 1e6


def _by_codecarbon(work: Callable[[], object]) -> tuple[Energy | None, float]:
    import codecarbon

    # The country decides on emissions alone, which nobody asks for here; without one it would ask the network.
    tracker: Any = codecarbon.OfflineEmissionsTracker(
        country_iso_code="USA", save_to_file=False, log_level="critical", measure_power_secs=1, allow_multiple_runs=True
    )
    tracker.start()
    try:
        seconds = _timed(work)
    finally:
        tracker.stop()
    used = tracker.final_emissions_data.energy_consumed * _JOULES_A_KWH
    return Energy(joules=used, method="codecarbon"), seconds
