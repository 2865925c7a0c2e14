"""What an evaluation found, frozen, to JSON and back: a `SystemResult` for each system, a `Comparison` of all."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from instil.core import manifest
from instil.evaluate.examples import Examples
from instil.evaluate.latency import Latency
from instil.evaluate.load import Load
from instil.evaluate.metric import Score
from instil.evaluate.significance import Interval
from instil.evaluate.slices import Slice

HISTOGRAM_BINS = 20
"""Of ROUGE-L, 5 points each; 100 falls into the last."""


class SystemResult(BaseModel):
    """One system. ROUGE in percent, times in milliseconds at batch 1, intervals of 95%."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    n: int
    parameters: int
    bytes: int
    elsewhere: bool = Field(default=False, description="a file or a server answered: its size may not be known")
    rouge1: Interval
    rouge2: Interval
    rougeL: Interval
    signature: str = Field(description="how rougeL was counted; rouge1 and rouge2 alike")
    rougeL_histogram: tuple[int, ...]
    output_words: float = Field(description="mean words an output")
    empty_outputs: int
    metrics: dict[str, Score] = Field(default_factory=dict, description="every metric that was asked for, by name")
    throughput: float | None = Field(description="items/s at the comparison's batch size, over all n")
    latency: Latency | None = None
    peak_memory_bytes: int | None = Field(
        default=None, description="weights + what generating adds for the longest sources at the batch size"
    )
    loads: tuple[Load, ...] = Field(default=(), description="throughput, energy and price by batch size")
    retention: Interval | None = Field(default=None, description="rougeL over the teacher's, a ratio")
    speedup: Interval | None = Field(default=None, description="the teacher's p50 over this p50, a ratio")
    difference: Interval | None = Field(default=None, description="rougeL minus that of `against`, in points")
    p_value: float | None = Field(default=None, description="two-sided, of no difference to `against`")

    @property
    def is_baseline(self) -> bool:
        """Whether it needs no model at all."""
        return not self.parameters and not self.elsewhere

    @property
    def latency_ms_p50(self) -> float | None:
        """Median milliseconds for one source at batch 1."""
        return self.latency.p50.value if self.latency else None

    @property
    def latency_ms_p95(self) -> float | None:
        """95th percentile of milliseconds for one source at batch 1."""
        return self.latency.p95.value if self.latency else None

    def summary(self) -> dict[str, Any]:
        """Flat and rounded, for `summary.json`."""
        whole = self.model_dump(exclude={"name", "latency", "rougeL_histogram"})
        timing = {
            "latency_ms_p50": self.latency_ms_p50,
            "latency_ms_p95": self.latency_ms_p95,
            "latency_ms_p99": self.latency.p99.value if self.latency and self.latency.p99 else None,
            "first_token_ms": self.latency.first_token.value if self.latency and self.latency.first_token else None,
            "latency_ms_p50_interval": self.latency.p50.model_dump() if self.latency else None,
            "latency_items": len(self.latency.milliseconds) if self.latency else 0,
        }
        return {key: _rounded(value) for key, value in {**whole, **timing}.items()}


class Comparison(BaseModel):
    """Several systems over the same records. `teacher`, `student` and `against` name the systems compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    systems: tuple[SystemResult, ...]
    n: int
    teacher: str | None = None
    student: str | None = None
    against: str | None = None
    signature: str
    seed: int
    resamples: int
    max_new_tokens: int
    batch_size: int
    examples: Examples = Examples()
    slices: tuple[Slice, ...] = ()
    remarks: tuple[str, ...] = ()
    hardware: dict[str, str] = Field(default_factory=manifest.hardware)
    versions: dict[str, str] = Field(default_factory=manifest.versions)

    def __getitem__(self, name: str) -> SystemResult:
        """The system called `name`. Raises `KeyError`."""
        by_name = {system.name: system for system in self.systems}
        if name not in by_name:
            raise KeyError(f"no system {name!r}; there are {', '.join(by_name)}")
        return by_name[name]

    def summary(self) -> dict[str, Any]:
        """For `summary.json`: each system under its name, then the student's retention, speed-up and p-value."""
        student = self[self.student].summary() if self.student else {}
        top = {key: student.get(key) for key in _OF_THE_STUDENT}
        compared = {"student": self.student, "teacher": self.teacher, "against": self.against}
        how = self.model_dump(include=set(_HOW))
        return {system.name: system.summary() for system in self.systems} | top | {"compared": compared} | how


_OF_THE_STUDENT = ("retention", "speedup", "difference", "p_value")
_HOW = ("n", "signature", "seed", "resamples", "max_new_tokens", "batch_size", "remarks")
RESERVED = frozenset({*_OF_THE_STUDENT, *_HOW, "compared", "tasks"})
"""Keys of `Comparison.summary()`, and what a run adds for further tasks, that no system may be called."""


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value
