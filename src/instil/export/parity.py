"""Is the export the student? Its engine writes, the student judges what was written, step by step and as a whole.

Three things are compared on probe sources, none of which lets an error of one token grow into a different text:
the probabilities along the engine's own greedy path, the regret of that path (what the student would rather have
written), and the scores of the texts where references are known.

Shape letters: T tokens written, K ids told of each, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from instil.core.errors import ModelError
from instil.export.engines.engine import Engine, Trace
from instil.export.student import Student

PARITY_NAME = "parity.json"
PROBES, TRACED = 50, 12
Scorer = Callable[[str, Sequence[str]], float]
"""A score of an output against its references, in percent; higher is better."""


class ParityError(ModelError):
    """An export that is not the student. Nothing was published. `problem`: what is beyond the tolerance."""

    def __init__(self, message: str, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem or message


@dataclass(frozen=True, slots=True)
class Probe:
    """A source to compare on, and its references where they are known."""

    source: str
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much an export may differ. `log_prob`: the mean difference of log probabilities, in nats, each weighted by
    the student's probability. `regret`: the mean over tokens of what the student gives away in log probability by
    writing the engine's token, in nats. `score`: points lost, beyond twice the standard error of the loss. `texts`: the
    share of whole texts that may be others, of which one always may, by a near-tie; traces force and forbid nothing,
    so texts alone show whether the engine obeys there."""

    log_prob: float
    regret: float
    score: float
    texts: float = 1.0


EXACT = Tolerance(log_prob=2e-3, regret=1e-3, score=0.1, texts=0.1)
_HALF, _EIGHT, _FOUR = Tolerance(0.03, 0.01, 0.5), Tolerance(0.1, 0.03, 1.0), Tolerance(0.6, 0.3, 3.0)
TOLERANCES = {
    "fp32": EXACT, "fp16": _HALF, "bf16": _HALF, "int8": _EIGHT, "q8_0": _EIGHT, "q6_k": _EIGHT, "int4": _FOUR,
    "q4_0": _FOUR, "q4_k_m": _FOUR,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """How one traced text differs, each a mean over its tokens, in nats; `largest` is of a single probability."""

    log_prob: float
    largest: float
    regret: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Parity:
    """The report that is kept beside an export."""

    precision: str
    tolerance: Tolerance
    probes: int
    traced_tokens: int
    log_prob: float
    largest_log_prob: float
    regret: float
    equal_texts: int
    student_score: float | None
    export_score: float | None
    score_loss: float | None
    score_loss_error: float | None
    metric: str
    unequal_tokens: int
    example: dict[str, str]

    @property
    def problem(self) -> str:
        """What is beyond the tolerance; empty for an export that may be published."""
        limit = self.tolerance
        if self.unequal_tokens:
            return f"its engine reads {self.unequal_tokens} of {self.probes} probes in other tokens"
        if not self.log_prob <= limit.log_prob:
            return f"its log probabilities are {self.log_prob:.3g} nats off, {limit.log_prob:g} is allowed"
        if not self.regret <= limit.regret:
            return f"its choices cost the student {self.regret:.3g} nats a token, {limit.regret:g} is allowed"
        if (others := self.probes - self.equal_texts) > max(1, limit.texts * self.probes):
            return f"{others} of {self.probes} texts are others than the student's"
        loss, error = self.score_loss or 0.0, self.score_loss_error or 0.0
        if loss > limit.score + 2 * error:
            return (
                f"it loses {loss:.2f} points of {self.metric} (standard error {error:.2f}), {limit.score:g} is allowed"
            )
        return ""

    def json(self) -> dict[str, Any]:
        """The report as it is written."""
        return asdict(self) | {"passed": not self.problem}


def compare(
    student: Student, engine: Engine, probes: Sequence[Probe], *, tolerance: Tolerance, max_new_tokens: int,
    scorer: Scorer | None = None, metric: str = "", texts: bool = True,
) -> Parity:  # fmt: skip
    """How `engine` differs from `student` on `probes`; with `texts` off, only on the traced ones."""
    steps = [_judge(student, engine, probe, max_new_tokens) for probe in probes[:TRACED]]
    tokens = sum(step.tokens for step in steps)
    own = written = [""] * len(probes)
    if texts:
        sources = [probe.source for probe in probes]
        own, written = (
            system.generate(sources, max_new_tokens=max_new_tokens, batch_size=8)
            for system in (student.generator, engine)
        )
    unequal = [number for number, probe in enumerate(probes) if not engine.reads_alike(probe.source)]
    scores = _scores(probes, own, written, scorer) if scorer and texts else None
    return Parity(
        precision=engine.sheet.precision, tolerance=tolerance, probes=len(probes), traced_tokens=tokens,
        log_prob=_mean(steps, "log_prob"), largest_log_prob=max(step.largest for step in steps),
        regret=_mean(steps, "regret"), equal_texts=sum(a == b for a, b in zip(own, written, strict=True)),
        metric=metric if scores else "", unequal_tokens=len(unequal),
        example=_example(probes, own, written, unequal), **(scores or dict.fromkeys(_SCORES)),
    )  # fmt: skip


_SCORES = ("student_score", "export_score", "score_loss", "score_loss_error")


def _judge(student: Student, engine: Engine, probe: Probe, max_new_tokens: int) -> Step:
    prompt = engine.read(probe.source)
    trace = engine.trace(prompt, max_new_tokens)
    if not trace.written:
        raise ParityError(f"{engine.name}: wrote no token behind {_short(probe.source)}; choose another format")
    log_TV = student.log_probs(prompt, trace.written, engine.sheet.alphabet.start).numpy()
    return _differences(trace, log_TV)


def _differences(trace: Trace, log_TV: Any) -> Step:
    own_TK = np.take_along_axis(log_TV, trace.ids_TK, -1)
    # Where a log probability is not told, there is nothing to compare.
    off_TK = np.nan_to_num(np.abs(own_TK - trace.log_probs_TK))
    chosen_T = log_TV[np.arange(len(trace.written)), trace.written]
    regret_T = log_TV.max(-1) - chosen_T
    weighted_T = (np.exp(own_TK) * off_TK).sum(-1)
    return Step(float(weighted_T.mean()), float(off_TK[:, 0].max()), float(regret_T.mean()), len(trace.written))


def _mean(steps: Sequence[Step], name: str) -> float:
    return sum(getattr(step, name) * step.tokens for step in steps) / sum(step.tokens for step in steps)


def _scores(
    probes: Sequence[Probe], own: Sequence[str], written: Sequence[str], scorer: Scorer
) -> dict[str, float] | None:
    known = [number for number, probe in enumerate(probes) if probe.targets]
    if len(known) < 2:
        return None
    before, after = ([scorer(texts[number], probes[number].targets) for number in known] for texts in (own, written))
    losses = [one - other for one, other in zip(before, after, strict=True)]
    loss = sum(losses) / len(losses)
    spread = math.sqrt(sum((each - loss) ** 2 for each in losses) / (len(losses) - 1))
    values = (sum(before) / len(known), sum(after) / len(known), loss, spread / math.sqrt(len(known)))
    return dict(zip(_SCORES, values, strict=True))


def _example(
    probes: Sequence[Probe], own: Sequence[str], written: Sequence[str], unequal: Sequence[int]
) -> dict[str, str]:
    differing = [*unequal, *(number for number in range(len(probes)) if own[number] != written[number])]
    if not differing:
        return {}
    number = differing[0]
    return {"source": probes[number].source, "student": own[number], "export": written[number]}


def require(parity: Parity, name: str) -> None:
    """Raises `ParityError`, with an example, for an export that is not the student."""
    if not parity.problem:
        return
    example = parity.example
    shown = (
        f"; for {_short(example['source'])} the student wrote {_short(example['student'])},"
        f" the export {_short(example['export'])}"
        if example
        else ""
    )
    raise ParityError(
        f"{name}: refused, {parity.problem}{shown}; nothing was published, choose another --precision or format",
        parity.problem,
    )


def _short(text: str, limit: int = 100) -> str:
    return repr(text if len(text) <= limit else f"{text[: limit - 3]}...")
