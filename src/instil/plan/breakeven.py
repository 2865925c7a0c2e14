"""When has distilling paid for itself? What it costs, against what each request saves afterwards.

Both models are served at the user's load on the instance that serves each most cheaply, machines that are always on
and at most `FULLEST` busy. Energy is that of accelerators under load, with what surrounds them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from instil.core.errors import ConfigError
from instil.plan.choice import Candidate
from instil.plan.inference import Serving, devices_needed, fits, request_seconds
from instil.plan.prices import Instance
from instil.plan.shape import Shape
from instil.plan.tables import choose, rows_of
from instil.plan.wish import Wish

FULLEST = 0.7
"""How busy a server may be on average and still answer in time."""
WORKING = 0.8
"""Of its rated power that an accelerator draws under load."""
SURROUNDINGS = 1.5
"""Watts of the whole room for each of accelerators: hosts and network (1.3), cooling (1.15)."""
_MOST_GRAMS = 10_000
LATE_DAYS = 365.0
"""A plan that pays later than this is said not to pay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model at the load: on what, how many machines, USD and kWh a day, USD a request at full load."""

    instance: Instance
    machines: int
    usd_per_day: float
    usd_per_request: float
    kwh_per_day: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """Days and requests until the saving has paid; infinite where nothing is saved."""

    cost: float
    teacher: Served | None
    student: Served | None
    requests_per_day: float

    @property
    def saving(self) -> float:
        """USD a day."""
        if self.teacher is None or self.student is None:
            return math.inf if self.student else 0.0
        return self.teacher.usd_per_day - self.student.usd_per_day

    @property
    def days(self) -> float:
        """Until the saving is the cost."""
        return self.cost / self.saving if self.saving > 0 else math.inf

    @property
    def requests(self) -> float:
        """In these days."""
        return self.days * self.requests_per_day

    @property
    def pays(self) -> bool:
        """Whether it pays within a year."""
        return self.days <= LATE_DAYS


def break_even(wish: Wish, best: Candidate, teacher: Shape, student: Shape, offered: Sequence[Instance]) -> BreakEven:
    """Of a plan, at the wish's load."""
    return BreakEven(
        cost=best.usd, teacher=cheapest(wish, teacher, offered), student=cheapest(wish, student, offered),
        requests_per_day=wish.requests_per_day,
    )  # fmt: skip


def cheapest(wish: Wish, shape: Shape, offered: Sequence[Instance]) -> Served | None:
    """The instance that serves a model at the load for least; None where no single machine holds it."""
    found = [served for each in offered if (served := _served(wish, shape, each)) is not None]
    return min(found, key=lambda served: (served.usd_per_day, served.usd_per_request), default=None)


def _served(wish: Wish, shape: Shape, instance: Instance) -> Served | None:
    """Served on demand: a spot machine may be taken away while it answers."""
    device = instance.device
    wanted = devices_needed(Serving(shape=shape, device=device), wish.length)
    serving = Serving(shape=shape, device=device, devices=wanted)
    if instance.usd is None or device.is_tpu or wanted > instance.count or not fits(serving, wish.length):
        return None
    seconds = request_seconds(serving, wish.source_tokens, wish.target_tokens) * wanted / instance.count
    machines = max(1, math.ceil(wish.requests_per_day * seconds / (86_400 * FULLEST)))
    return Served(
        instance=instance, machines=machines, usd_per_day=machines * instance.usd * 24,
        usd_per_request=seconds * instance.usd / 3600,
        kwh_per_day=energy(device.watts * instance.count * machines, 24),
    )  # fmt: skip


def energy(watts: float, hours: float) -> float:
    """kWh of accelerators of so many rated watts at work for so long, hosts and cooling included."""
    return watts * WORKING * SURROUNDINGS * hours / 1000


def energy_of(plan: Candidate) -> float:
    """kWh of a plan."""
    return energy(plan.instance.device.watts * plan.devices, plan.hours)


def grams_per_kwh(region: str) -> tuple[float, str]:
    """Grams of CO2 of a kWh, and where the number is from; `region` may be a number itself. Raises `ConfigError` for
    one that nobody can emit."""
    try:
        grams = float(region)
    except ValueError:
        row = choose(region, {row["region"]: row for row in rows_of("grid.csv")}, "grid")
        return float(row["grams_per_kwh"]), f"{row['source']}, {row['date']}"
    if not 0 <= grams <= _MOST_GRAMS:
        raise ConfigError(f"grid is {region}; give grams of CO2 a kWh from 0 to {_MOST_GRAMS:,}, or a region")
    return abs(grams), "as given"
