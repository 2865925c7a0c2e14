"""Several systems over the same records: outputs, quality with intervals, cost, and what differs beyond chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from instil.core.errors import ConfigError, DataError
from instil.evaluate import latency, significance
from instil.evaluate.config import DEFAULT_METRICS, MetricName
from instil.evaluate.costs import Cost, measure_costs
from instil.evaluate.examples import Columns, select_examples
from instil.evaluate.given import GivenOutputs
from instil.evaluate.load import NO_LOAD, LoadPlan
from instil.evaluate.metric import Counted, Score
from instil.evaluate.metrics.choose import Setting, choose
from instil.evaluate.outputs import ScoredOutput, produce_outputs
from instil.evaluate.results import HISTOGRAM_BINS, RESERVED, Comparison, SystemResult
from instil.evaluate.rouge import Rouge, Tokenizer, tokenizer_for
from instil.evaluate.scores import score_systems
from instil.evaluate.slices import slices

if TYPE_CHECKING:
    from instil.core.console import Advance
    from instil.core.protocol import Generator
    from instil.data.records import Record


HEADLINES = ("rouge1", "rouge2", "rougeL")
"""What every system is shown with, whatever else is measured."""


def total_steps(systems: int, records: int, latency_items: int, examined: int = 0) -> int:
    """How far `evaluate_systems` counts in `advance`: one step an output, one a timed answer, and one an example that a
    system reads; `examined` are these of all systems together."""
    return systems * (records + min(records, latency_items)) + examined


def evaluate_systems(
    systems: Mapping[str, Generator],
    records: Sequence[Record],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    teacher: str | None = None,
    against: str | None = None,
    student: str | None = None,
    seed: int = 0,
    latency_items: int = 50,
    load: LoadPlan = NO_LOAD,
    fidelity_items: int = 0,
    metrics: Sequence[MetricName] = DEFAULT_METRICS,
    answer: str | None = None,
    embedder: str | None = None,
    advance: Advance | None = None,
    outputs_folder: Path | None = None,
    tokenizer: Tokenizer | Literal["auto"] = "auto",
    resamples: int = significance.RESAMPLES,
    examples: int = 5,
) -> Comparison:
    """Quality and cost of `systems`, by name, over `records`.

    `teacher`: retention and speed-up refer to it. `against`: differences and p-values do (for instance the same student
    trained without the teacher). `student`: whose numbers stand on top; if not given, the system called `student`.
    `latency_items`: sources that are timed, all systems in turns, so they must be in memory together; 0 measures
    neither latency nor memory. `load`: at which batch sizes throughput, energy and price are measured on them.
    `fidelity_items`: records whose targets every model in memory reads, for loss, calibration and nearness to the
    teacher. `metrics`: what else outputs are judged by; `answer`, `embedder`: what some go by. `outputs_folder` keeps
    `NAME.jsonl` after every few batches, and what is there already is not generated again: it must be this evaluation's
    own folder. `tokenizer`: see `rouge`; `auto` goes by the targets. Raises `DataError` without records or targets,
    `ConfigError` for a name that is not there, `ModelError` for a system that breaks the `Generator` protocol.
    """
    student = student or ("student" if "student" in systems else None)
    _check(systems, records, {"teacher": teacher, "against": against, "student": student})
    rouge = _rouge_for(records, tokenizer)
    chosen = choose(metrics, Setting(records, rouge, answer, embedder))
    steps = _Steps(advance)
    limits: dict[str, int] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    columns = _written(systems, records, rouge, outputs_folder, steps, limits)
    sources = [record.source for record in records]
    counted = {name: [metric.count(outputs) for metric in chosen] for name, outputs in columns.items()}
    read, remarks = _examine(systems, records, fidelity_items, teacher, max_new_tokens, seed, steps)
    drawing: dict[str, Any] = {"against": against, "seed": seed, "resamples": resamples}
    of_texts, of_rows = score_systems(counted, **drawing), score_systems(read, **drawing)
    scores = {name: of_texts.get(name, {}) | of_rows.get(name, {}) for name in systems}
    timed = {name: system for name, system in systems.items() if not isinstance(system, GivenOutputs)}
    costs = measure_costs(
        timed, sources, items=latency_items, load=load, seed=seed, done=steps.part("latency"), **limits
    )
    signature = rouge.signature("rougeL", (len(record.targets) for record in records))
    view = _View(columns, scores, costs, signature, teacher, against, seed, resamples)
    results = tuple(view.result(name, system) for name, system in systems.items())
    compared: dict[str, Any] = _looked_at(columns, student, teacher, examples, seed) if student else {}
    compared |= {"teacher": teacher, "student": student, "against": against}
    how: dict[str, Any] = {"n": len(records), "signature": signature, "seed": seed, "resamples": resamples, **limits}
    return Comparison(systems=results, remarks=(*_remarks(results, rouge), *remarks), **compared, **how)


def _written(
    systems: Mapping[str, Generator], records: Sequence[Record], rouge: Rouge, folder: Path | None, steps: _Steps,
    limits: Mapping[str, int],
) -> dict[str, list[ScoredOutput]]:  # fmt: skip
    found: dict[str, list[ScoredOutput]] = {}
    for name, system in systems.items():
        path = folder / f"{name}.jsonl" if folder else None
        found[name] = produce_outputs(system, records, rouge=rouge, path=path, done=steps.part(name), **limits)
    return found


def _looked_at(columns: Columns, student: str, teacher: str | None, count: int, seed: int) -> dict[str, Any]:
    return {
        "examples": select_examples(columns, student=student, teacher=teacher, count=count, seed=seed),
        "slices": slices(columns, student=student, teacher=teacher, seed=seed),
    }


def _examine(
    systems: Mapping[str, Generator], records: Sequence[Record], items: int, teacher: str | None, longest_target: int,
    seed: int, steps: _Steps,
) -> tuple[dict[str, list[Counted]], list[str]]:  # fmt: skip
    if not items:
        return {}, []
    # Torch comes with it.
    from instil.evaluate.reading import examine_systems

    drawn = [records[position] for position in latency.spread(len(records), items, seed=seed)]
    return examine_systems(
        systems, drawn, teacher=teacher, longest_target=longest_target, done=steps.part("reading targets")
    )


def _check(systems: Mapping[str, Generator], records: Sequence[Record], roles: Mapping[str, str | None]) -> None:
    if not records:
        raise DataError("there is nothing to evaluate on: the list of records is empty; check the test split's source")
    bare = next((record.id for record in records if not record.targets), None)
    if bare is not None:
        raise DataError(f"record {bare!r} has no target to score against; give it one or leave it out")
    if not systems:
        raise ConfigError("there is nothing to evaluate: no system was given; name at least one")
    for role, name in roles.items():
        if name is not None and name not in systems:
            raise ConfigError(f"{role} is {name!r}, which is not among the systems; choose one of {', '.join(systems)}")
    for name in systems:
        if name in RESERVED or not name or "/" in name or name.startswith("."):
            raise ConfigError(f"a system cannot be called {name!r}; choose a plain name that is no key of the summary")


def _rouge_for(records: Sequence[Record], tokenizer: Tokenizer | Literal["auto"]) -> Rouge:
    if tokenizer == "auto":
        tokenizer = tokenizer_for(target for record in records for target in record.targets)
    return Rouge(tokenizer=tokenizer)


class _Steps:
    """Turns "so many done in this part" into the whole's progress."""

    def __init__(self, advance: Advance | None) -> None:
        self._advance, self._before, self._here = advance, 0, 0

    def part(self, remark: str) -> Callable[[int], None]:
        self._before, self._here = self._before + self._here, 0

        def done(count: int) -> None:
            self._here = count
            if self._advance:
                self._advance(self._before + count, remark)

        return done


@dataclass(frozen=True, slots=True)
class _View:
    """All that was measured, from which each system's result is drawn."""

    columns: Columns
    scores: Mapping[str, Mapping[str, Score]]
    costs: Mapping[str, Cost]
    signature: str
    teacher: str | None
    against: str | None
    seed: int
    resamples: int

    def result(self, name: str, system: Generator) -> SystemResult:
        outputs = self.columns[name]
        scores = {metric: np.array([getattr(output, metric) for output in outputs]) for metric in HEADLINES}
        means_RM = significance.bootstrap_means(np.stack(list(scores.values()), axis=1), **self._drawing)
        quality: dict[str, Any] = {
            metric: significance.interval_of(values.mean(), means_RM[:, column])
            for column, (metric, values) in enumerate(scores.items())
        }
        histogram, _ = np.histogram(scores["rougeL"], bins=HISTOGRAM_BINS, range=(0, 100))
        seconds = sum(output.seconds for output in outputs)
        return SystemResult(
            name=name,
            n=len(outputs),
            parameters=system.parameters,
            bytes=system.bytes,
            elsewhere=getattr(system, "elsewhere", False),
            signature=self.signature,
            metrics=dict(self.scores[name]),
            rougeL_histogram=tuple(histogram.tolist()),
            output_words=sum(len(output.output.split()) for output in outputs) / len(outputs),
            empty_outputs=sum(not output.output.strip() for output in outputs),
            throughput=len(outputs) / seconds if seconds > 0 and not isinstance(system, GivenOutputs) else None,
            **quality,
            **self._cost(name),
            **self._against_teacher(name),
            **self._against_other(name),
        )

    @property
    def _drawing(self) -> dict[str, int]:
        return {"seed": self.seed, "resamples": self.resamples}

    def _rouge_l(self, name: str) -> list[float]:
        return [output.rougeL for output in self.columns[name]]

    def _cost(self, name: str) -> dict[str, Any]:
        cost = self.costs.get(name)
        if cost is None:
            return {}
        return {
            "latency": latency.latency_of(cost.milliseconds, first_token=cost.first_token, seed=self.seed),
            "loads": cost.loads,
            "peak_memory_bytes": cost.peak_memory_bytes,
        }

    def _against_teacher(self, name: str) -> dict[str, Any]:
        if self.teacher is None or name == self.teacher:
            return {}
        ours, theirs = self._rouge_l(name), self._rouge_l(self.teacher)
        found: dict[str, Any] = {"retention": significance.ratio_interval(ours, theirs, **self._drawing)}
        if name in self.costs and self.teacher in self.costs:
            slow, fast = self.costs[self.teacher].milliseconds, self.costs[name].milliseconds
            found["speedup"] = latency.speedup(slow, fast, seed=self.seed)
        return found

    def _against_other(self, name: str) -> dict[str, Any]:
        if self.against is None or name == self.against:
            return {}
        ours, theirs = self._rouge_l(name), self._rouge_l(self.against)
        difference = significance.difference_interval(ours, theirs, **self._drawing)
        return {"difference": difference, "p_value": significance.paired_p_value(ours, theirs, seed=self.seed)}


def _remarks(results: Sequence[SystemResult], rouge: Rouge) -> tuple[str, ...]:
    remarks = [f"{one.name} left {one.empty_outputs} of {one.n} outputs empty" for one in results if one.empty_outputs]
    if rouge.tokenizer == "unicode":
        remarks.append("targets are not in plain a-z: ROUGE counts words of any script, unlike published numbers")
    return tuple(remarks)
