"""A choice as a person reads it, and as JSON. The most important thing stands first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instil.core import units
from instil.plan.breakeven import BreakEven, Served, break_even, energy_of, grams_per_kwh
from instil.plan.choice import Candidate, Choice, choose
from instil.plan.prices import Instance, instances, select
from instil.plan.shape import Shape, active_parameters, parameters
from instil.plan.wish import Wish

UNTRIED = "  note      instil has not been run on TPUs yet: this is arithmetic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A choice with its break-even, energy and CO2."""

    choice: Choice
    paying: BreakEven | None
    kwh: float
    grams: float
    grid_source: str

    @property
    def shown(self) -> Candidate | None:
        """The plan, or the nearest to one."""
        return self.choice.best or self.choice.nearest


def answer(wish: Wish, offered: Sequence[Instance] | None = None) -> Answer:
    """All that is to be said about a wish."""
    offered = instances() if offered is None else offered
    grams, source = grams_per_kwh(wish.grid)
    choice = choose(wish, offered)
    shown = choice.best or choice.nearest
    serving = select(offered, cloud=wish.cloud, gpu=None)
    paying = break_even(wish, shown, choice.teacher, choice.student, serving) if shown else None
    kwh = energy_of(shown) if shown else 0.0
    return Answer(choice=choice, paying=paying, kwh=kwh, grams=grams, grid_source=source)


def as_json(found: Answer) -> dict[str, Any]:
    """Everything, for programs. Hours, USD, bytes."""
    choice, paying = found.choice, found.paying
    return {
        "verdict": verdict(found),
        "wish": choice.wish.model_dump(mode="json", exclude_none=True),
        "teacher": _model(choice.teacher),
        "student": _model(choice.student),
        "plan": _plan(choice.best),
        "remarks": remarks(found),
        "obstacle": choice.obstacle or None,
        "nearest": _plan(choice.nearest),
        "pareto": [_plan(each) for each in choice.pareto],
        "losers": [{"what": what, "why": why} for what, why in choice.losers],
        "break_even": None if paying is None else _paying(paying),
        "energy": {
            "kwh": round(found.kwh, 2),
            "kg_co2": round(found.kwh * found.grams / 1000, 2),
            "grams_per_kwh": found.grams,
            "grid_source": found.grid_source,
        },
    }


def _model(shape: Shape) -> dict[str, Any]:
    return {"name": shape.name, "parameters": parameters(shape), "active_parameters": active_parameters(shape)}


def _plan(each: Candidate | None) -> dict[str, Any] | None:
    if each is None:
        return None
    instance = each.instance
    return {
        "way": each.way, "hours": round(each.hours, 3), "hours_interval": [round(hours, 3) for hours in each.interval],
        "usd": round(each.usd, 2), "price_date": instance.date, "price_source": instance.source,
        "cloud": instance.cloud, "instance": instance.name, "machines": each.machines, "region": instance.region,
        "accelerator": instance.accelerator, "accelerators": each.devices, "peak_bytes": round(each.peak),
        "stages": [
            {
                "name": stage.name, "hours": round(stage.seconds / 3600, 4), "layout": str(stage.layout),
                "micro_batch": stage.micro_batch, "peak_bytes": round(stage.peak),
            }
            for stage in each.stages
        ],
    }  # fmt: skip


def _paying(paying: BreakEven) -> dict[str, Any]:
    finite = math.isfinite(paying.days)
    return {
        "pays": paying.pays,
        "days": round(paying.days, 2) if finite else None,
        "requests": round(paying.requests) if finite else None,
        "requests_per_day": paying.requests_per_day,
        "cost_usd": round(paying.cost, 2),
        "saving_usd_per_day": round(paying.saving, 2) if math.isfinite(paying.saving) else None,
        "teacher": _served(paying.teacher),
        "student": _served(paying.student),
    }


def _served(served: Served | None) -> dict[str, Any] | None:
    if served is None:
        return None
    return {
        "instance": served.instance.name, "machines": served.machines, "usd_per_day": round(served.usd_per_day, 2),
        "usd_per_1000_requests": round(served.usd_per_request * 1000, 4), "price_date": served.instance.date,
        "kwh_per_day": round(served.kwh_per_day, 2),
    }  # fmt: skip


def verdict(found: Answer) -> str:
    """The first sentence."""
    choice, paying = found.choice, found.paying
    if choice.best is None:
        return f"No plan: {choice.obstacle}."
    if paying and not paying.pays:
        return f"Distilling does not pay at {units.count(paying.requests_per_day)} requests a day: {_why_not(paying)}."
    best = choice.best
    machines = f"{best.devices} x {best.instance.accelerator}"
    return f"{best.hours:.1f} hours, {machines}, USD {best.usd:,.2f} (prices of {best.instance.date})."


def remarks(found: Answer) -> list[str]:
    """What a model cannot do of what is wished."""
    wish, told = found.choice.wish, []
    for shape in (found.choice.teacher, found.choice.student):
        own = max(wish.source_tokens, wish.target_tokens) if shape.is_encoder_decoder else wish.length
        if shape.context and own > shape.context:
            told.append(
                f"{shape.name} has places for {shape.context:,} tokens, not for {own:,.0f}; lower --source-tokens, or"
                " choose another model"
            )
    return told


def _why_not(paying: BreakEven) -> str:
    if paying.student is None:
        return "no single machine here serves the student"
    if paying.saving <= 0:
        on = paying.student.instance.name
        return f"teacher and student each need one machine, and {on} is the cheapest for both"
    return f"USD {paying.cost:,.2f} come back at USD {paying.saving:,.2f} a day, so in {paying.days / 365:.1f} years"


def lines(found: Answer) -> list[str]:
    """The answer for a terminal."""
    choice, wish = found.choice, found.choice.wish
    out = [verdict(found), ""]
    out.append(
        f"{choice.teacher.name} ({units.count(parameters(choice.teacher))}) teaches {choice.student.name} "
        f"({units.count(parameters(choice.student))}) with {units.count(wish.examples)} examples of "
        f"{wish.source_tokens:g} + {wish.target_tokens:g} tokens, {wish.epochs:g} epochs"
    )
    out += [f"note: {remark}" for remark in remarks(found)]
    if choice.best is None and choice.nearest is not None:
        out.append("The nearest that can be done:")
    if found.shown is not None:
        out += [*_plan_lines(found.shown, found), *_paying_lines(found)]
    if choice.pareto:
        out += ["", "Not beaten in both hours and money:"]
        out += [f"  {each.hours:7.1f} h  USD {each.usd:10,.2f}  {each}" for each in choice.pareto]
    if choice.losers:
        out += ["", "What one might have expected:"]
        out += [f"  {what}\n    {why}" for what, why in choice.losers]
    return out


def _plan_lines(plan: Candidate, found: Answer) -> list[str]:
    low, high = plan.interval
    instance = plan.instance
    limit = found.choice.wish.within_hours
    late = f"; the upper end is over {limit:g} h" if limit and plan.hours <= limit < high else ""
    rate = instance.price(spot=found.choice.wish.spot) or 0.0
    stages = ", ".join(f"{stage.name} {units.seconds(stage.seconds)}" for stage in plan.stages)
    train = next(stage for stage in plan.stages if stage.name == "train")
    source = ", ".join(filter(None, (instance.date, instance.source, instance.note)))
    told = {
        "way": plan.way,
        "machines": f"{plan.machines} x {instance.name} ({instance.cloud}, {instance.region})",
        "devices": f"{plan.devices} x {instance.accelerator}",
        "hours": f"{plan.hours:.1f} ({low:.1f} to {high:.1f} for four runs in five{late}): {stages}",
        "memory": f"{plan.peak / 1e9:.0f} GB of a device at the peak; training as {train.layout}, "
        f"{train.micro_batch} examples at once",
        "money": f"USD {plan.usd:,.2f} at USD {rate * plan.machines:,.2f} an hour ({source})",
        "energy": f"{found.kwh:.1f} kWh, {found.kwh * found.grams / 1000:.1f} kg CO2 at {found.grams:g} g/kWh "
        f"({found.grid_source})",
    }
    remarks = [UNTRIED] if instance.device.is_tpu else []
    return [*(f"  {name:<9} {value}" for name, value in told.items()), *remarks]


def _paying_lines(found: Answer) -> list[str]:
    paying = found.paying
    if paying is None or paying.student is None:
        return []
    if paying.teacher is None:
        return ["  pays      at once: no single machine here serves the teacher"]
    load = f"at {units.count(paying.requests_per_day)} requests a day"
    when = (
        f"after {units.count(paying.requests)} requests, {paying.days:.1f} days {load}"
        if math.isfinite(paying.days)
        else f"never {load}"
    )
    return [f"  pays      {when}", *(_served_line(*each) for each in _both(paying))]


def _both(paying: BreakEven) -> list[tuple[str, Served]]:
    named = (("teacher", paying.teacher), ("student", paying.student))
    return [(name, served) for name, served in named if served]


def _served_line(name: str, served: Served) -> str:
    return (
        f"            {name}: USD {served.usd_per_day:,.2f} a day on {served.machines} x {served.instance.name} "
        f"({served.instance.date}), USD {served.usd_per_request * 1000:.3f} a thousand at full load"
    )
