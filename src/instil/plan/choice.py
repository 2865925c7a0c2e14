"""Enumerates ways x machines x layouts, and chooses: what fits, what is not beaten in both hours and money, and why
what a user might have expected is not the answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from instil.core.errors import ConfigError
from instil.plan.models import find_model
from instil.plan.prices import Instance, instances, select
from instil.plan.shape import Shape, parameters
from instil.plan.stages import (
    Cluster,
    Misfit,
    Stage,
    evaluation_seconds,
    label_stage,
    saving_seconds,
    start_seconds,
    train_stage,
    write_stage,
)
from instil.plan.time import spread
from instil.plan.wish import WAYS, Way, Wish, share_vocabulary, student_shape

MACHINES = (1, 2, 4, 8)
WITH_NETWORK = 8
"""Devices of a machine from which clouds put a fast network between machines; smaller ones work alone."""
ABLE: tuple[Way, ...] = ("labels", "labels-lora", "labels-qlora")
"""Ways that instil goes. Of the other a plan tells what it would have cost."""
ALIKE = 1.25
"""Money counts as the same up to this factor: prediction is no finer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way on one kind of machine, with its stages; `misfit` says why it cannot be."""

    way: Way
    instance: Instance
    machines: int
    stages: tuple[Stage, ...] = ()
    usd: float = math.inf
    misfit: Misfit | None = None

    @property
    def hours(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds for stage in self.stages) / 3600 if self.stages else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """Hours between which four of five runs should end."""
        factor = math.exp(spread("general"))
        return self.hours / factor, self.hours * factor

    @property
    def devices(self) -> int:
        """Accelerators in use."""
        return self.machines * self.instance.count

    @property
    def peak(self) -> float:
        """Bytes of a device at the peak of the hungriest stage."""
        return max(stage.peak for stage in self.stages)

    def __str__(self) -> str:
        return f"{self.way} on {self.machines} x {self.instance.name} ({self.devices} x {self.instance.accelerator})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The answer. `best` is None where no candidate meets the wish; `nearest` then comes closest."""

    wish: Wish
    teacher: Shape
    student: Shape
    best: Candidate | None
    nearest: Candidate | None
    obstacle: str
    pareto: tuple[Candidate, ...]
    losers: tuple[tuple[str, str], ...]


def choose(wish: Wish, offered: Sequence[Instance] | None = None) -> Choice:
    """The cheapest candidate that meets the wish. Raises `ConfigError` or `ModelError` where a wish makes no sense."""
    teacher = find_model(wish.teacher)
    student = student_shape(wish.student, teacher)
    _sensible(wish, teacher, student)
    offered = instances() if offered is None else offered
    asked = list(candidates(wish, teacher, student, select(offered, cloud=wish.cloud, gpu=wish.gpu, spot=wish.spot)))
    able = [each for each in asked if each.way in ABLE]
    met = [each for each in able if _meets(each, wish)]
    best = _best(met)
    nearest, obstacle = (None, "") if best else _nearest(wish, teacher, student, able, offered)
    return Choice(
        wish=wish, teacher=teacher, student=student, best=best, nearest=nearest, obstacle=obstacle,
        pareto=pareto(each for each in able if each.stages), losers=_losers(best, asked, wish) if best else (),
    )  # fmt: skip


def _best(met: Sequence[Candidate]) -> Candidate | None:
    """The cheapest; of those that cost alike, the one that trains most of the student."""
    least = min((each.usd for each in met), default=math.inf)
    alike = [each for each in met if each.usd <= ALIKE * least]
    return min(alike, key=lambda each: (WAYS.index(each.way), each.usd, each.hours), default=None)


def _sensible(wish: Wish, teacher: Shape, student: Shape) -> None:
    if parameters(student) > parameters(teacher):
        raise ConfigError(
            f"the student {student.name} ({parameters(student) / 1e9:.1f}B) is larger than the teacher {teacher.name} "
            f"({parameters(teacher) / 1e9:.1f}B); exchange them"
        )
    if wish.targets == "given" and not share_vocabulary(teacher, student):
        raise ConfigError(
            f"{teacher.name} and {student.name} have other tokenizers ({teacher.vocabulary:,} and "
            f"{student.vocabulary:,} ids), so the student cannot learn from stored labels; take --targets teacher, or "
            f"a student of the teacher's own layers: --student {teacher.name}@{max(1, teacher.layers // 2)}"
        )


def candidates(wish: Wish, teacher: Shape, student: Shape, offered: Iterable[Instance]) -> Iterable[Candidate]:
    """All of them, those that do not fit too."""
    ways: tuple[Way, ...] = WAYS if share_vocabulary(teacher, student) else WAYS[:3]
    for instance in offered:
        for machines in MACHINES:
            devices = machines * instance.count
            alone = instance.count < WITH_NETWORK or instance.device.is_tpu
            if (wish.gpus and devices != wish.gpus) or (machines > 1 and (alone or devices > wish.batch)):
                continue
            cluster = Cluster(device=instance.device, count=devices, per_machine=instance.count)
            shared = _shared_stages(wish, teacher, cluster)
            for way in ways:
                if way == "labels-qlora" and instance.device.is_tpu:
                    continue  # bitsandbytes has no weights of 4 bits there.
                yield _candidate(wish, teacher, student, way, instance, machines, cluster, shared)


Shared = tuple[tuple[Stage, ...], tuple[Stage, ...], Misfit | None, Misfit | None]
"""Stages of writing and of labelling, and why each cannot be."""


def _shared_stages(wish: Wish, teacher: Shape, cluster: Cluster) -> Shared:
    """What does not depend on how the student learns."""
    writing = write_stage(wish, teacher, cluster, wish.examples) if wish.targets == "teacher" else None
    labelling = label_stage(wish, teacher, cluster)
    return (
        (writing,) if isinstance(writing, Stage) else (), (labelling,) if isinstance(labelling, Stage) else (),
        writing if isinstance(writing, Misfit) else None, labelling if isinstance(labelling, Misfit) else None,
    )  # fmt: skip


def _candidate(
    wish: Wish, teacher: Shape, student: Shape, way: Way, instance: Instance, machines: int, cluster: Cluster,
    shared: Shared,
) -> Candidate:  # fmt: skip
    writing, labelling, cannot_write, cannot_label = shared
    reads = share_vocabulary(teacher, student) and way != "online"
    misfit = cannot_write or (cannot_label if reads else None)
    train = train_stage(wish, teacher, student, way, cluster) if misfit is None else misfit
    if isinstance(train, Misfit):
        return Candidate(way=way, instance=instance, machines=machines, misfit=train)
    around = {
        "start": start_seconds(teacher, student),
        "save": saving_seconds(student, way, train.seconds),
        "evaluate": evaluation_seconds(wish, teacher, student, cluster, train.seconds),
    }
    start, save, check = (Stage(name=n, seconds=s, layout=train.layout, peak=0.0) for n, s in around.items())
    stages = (start, *writing, *(labelling if reads else ()), train, save, check)
    hours = sum(stage.seconds for stage in stages) / 3600
    price = instance.price(spot=wish.spot) or math.inf
    return Candidate(way=way, instance=instance, machines=machines, stages=stages, usd=hours * machines * price)


def _meets(each: Candidate, wish: Wish) -> bool:
    in_time = wish.within_hours is None or each.hours <= wish.within_hours
    return bool(each.stages) and in_time and (wish.budget_usd is None or each.usd <= wish.budget_usd)


def pareto(found: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats in both hours and money, fastest first."""
    kept: list[Candidate] = []
    for each in sorted(found, key=lambda each: (each.hours, each.usd)):
        if not kept or each.usd < kept[-1].usd:
            kept.append(each)
    return tuple(kept)


def _nearest(
    wish: Wish, teacher: Shape, student: Shape, asked: Sequence[Candidate], offered: Sequence[Instance]
) -> tuple[Candidate | None, str]:
    """What comes closest to an impossible wish, and what stands in its way."""
    fitting = [each for each in asked if each.stages]
    if fitting:
        near = min(fitting, key=lambda each: _overshoot(each, wish))
        return near, f"the nearest takes {near.hours:,.1f} h and USD {near.usd:,.2f}"
    obstacle = str(next((each.misfit for each in asked if each.misfit), "no machine has so many accelerators"))
    free = wish.model_copy(update={"gpu": None, "gpus": None})
    wider = candidates(free, teacher, student, select(offered, cloud=wish.cloud, gpu=None, spot=wish.spot))
    possible = [each for each in wider if each.stages and each.way in ABLE]
    if not possible and wish.cloud:
        wider = candidates(free, teacher, student, select(offered, cloud=None, gpu=None, spot=wish.spot))
        possible = [each for each in wider if each.stages and each.way in ABLE]
    return min(possible, key=lambda each: _overshoot(each, wish), default=None), obstacle


def _overshoot(each: Candidate, wish: Wish) -> tuple[float, float]:
    late = each.hours / wish.within_hours if wish.within_hours else 1.0
    dear = each.usd / wish.budget_usd if wish.budget_usd else 1.0
    return max(1.0, late) * max(1.0, dear), each.usd


def _losers(best: Candidate, asked: Sequence[Candidate], wish: Wish) -> tuple[tuple[str, str], ...]:
    """Of each expectation the best candidate, and why it is not the answer."""
    expectations = {
        "the cheapest machine by the hour": min(
            asked, key=lambda each: ((each.instance.price(spot=wish.spot) or 0) * each.machines, each.usd)
        ),
        "the fastest accelerators": max(asked, key=lambda each: (each.instance.device.peak * each.devices, -each.usd)),
        "adapters instead of all weights": _first(asked, "labels-lora"),
        "adapters on 4-bit weights": _first(asked, "labels-qlora"),
        "all weights": _first(asked, "labels"),
        "a teacher in the same process": _first(asked, "online"),
    }
    return tuple(
        (f"{what}: {each}", _why(each, best, wish))
        for what, each in expectations.items()
        if each is not None and each is not best and (each.way != best.way or each.instance is not best.instance)
    )


def _first(asked: Sequence[Candidate], way: Way) -> Candidate | None:
    of_way = [each for each in asked if each.way == way]
    return min(of_way, key=lambda each: (not each.stages, each.usd, each.instance.count), default=None)


def _why(each: Candidate, best: Candidate, wish: Wish) -> str:
    if each.misfit:
        return str(each.misfit)
    told = f"{each.hours:.1f} h, USD {each.usd:,.2f}"
    if wish.within_hours and each.hours > wish.within_hours:
        return f"{told}: over the limit of {wish.within_hours:g} h"
    if each.usd > best.usd * ALIKE:
        slower = "and slower too" if each.hours > best.hours else f"though {best.hours / each.hours:.1f} times as fast"
        return f"{told}: {each.usd / best.usd:.1f} times the money, {slower}"
    return f"{told}: no dearer, but it trains less of the student and the difference is within the prediction's own"
