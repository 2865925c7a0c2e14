"""What systems do under load: answers and tokens a second at several batch sizes, energy, and what a token costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from instil.evaluate.energy import Method, measure_energy

if TYPE_CHECKING:
    from instil.core.protocol import Generator

_SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """At which batch sizes throughput is measured. `watts`: what the machine draws at work, where nothing can measure
    it. `usd_per_hour`: what it costs."""

    batch_sizes: Sequence[int] = ()
    watts: float | None = None
    usd_per_hour: float | None = None


NO_LOAD = LoadPlan()


class Load(BaseModel):
    """One system at one batch size, over `items` sources in a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int
    items: int
    items_per_second: float
    tokens_per_second: float | None = Field(description="written ones; None where the system shows no tokenizer")
    joules_per_item: float | None = None
    energy_method: Method | None = None
    usd_per_million_tokens: float | None = Field(default=None, description="written ones, the machine at full work")


def measure_loads(
    systems: Mapping[str, Generator], sources: Sequence[str], plan: LoadPlan, *, max_new_tokens: int
) -> dict[str, tuple[Load, ...]]:
    """Each of `systems` over all `sources` at each batch size of `plan`, after one untimed batch."""
    found: dict[str, list[Load]] = {name: [] for name in systems}
    for size in plan.batch_sizes:
        for name, system in systems.items():
            system.generate(sources[:size], max_new_tokens=max_new_tokens, batch_size=size)
            written: list[str] = []

            def work(system: Generator = system, written: list[str] = written, size: int = size) -> None:
                written.extend(system.generate(sources, max_new_tokens=max_new_tokens, batch_size=size))

            energy, seconds = measure_energy(work, watts=plan.watts)
            tokens = _tokens(system, written)
            found[name].append(
                Load(
                    batch_size=size, items=len(sources), items_per_second=len(sources) / seconds,
                    tokens_per_second=tokens / seconds if tokens else None,
                    joules_per_item=energy.joules / len(sources) if energy else None,
                    energy_method=energy.method if energy else None,
                    usd_per_million_tokens=_price(seconds, tokens, plan.usd_per_hour),
                )
            )  # fmt: skip
    return {name: tuple(loads) for name, loads in found.items()}


def _tokens(system: Generator, texts: Sequence[str]) -> int | None:
    tokenizer = getattr(system, "tokenizer", None)
    if tokenizer is None:
        return None
    # The end token of each is written too.
    return sum(len(ids) + 1 for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"])


def _price(seconds: float, tokens: int | None, usd_per_hour: float | None) -> float | None:
    if not tokens or usd_per_hour is None:
        return None
    return usd_per_hour / _SECONDS_AN_HOUR * seconds / tokens * 1e6
