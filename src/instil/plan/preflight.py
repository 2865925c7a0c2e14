"""Whether memory, disk and time suffice, from numbers alone: bytes, seconds, tokens."""

from __future__ import annotations

from instil.core import units
from instil.core.problems import Problem, fail, info, warn
from instil.plan.memory import Training, peak_memory
from instil.plan.shape import Shape

_TIGHT = 0.85
_LONG_SECONDS = 24 * 3600.0
_FEW_PASSES = 0.05
LABEL_BYTES = 30.0
"""Of a row at a temperature; a default store takes about two dozen."""


def training_bytes(shape: Shape, *, tokens: int, rows: float, trainable: float, on_cpu: bool) -> float:
    """The planner's figure for a step: `tokens` in a micro-batch, `rows` of them targets."""
    run = Training(
        shape=shape, tokens=tokens, rows=rows, trainable=trainable, precision="fp32" if on_cpu else "mixed"
    )  # fmt: skip
    found = peak_memory(run)
    return found.peak - (found.context if on_cpu else 0.0)


def memory(what: str, needed: float, there: float, *, source: str) -> list[Problem]:
    """Whether `what` fits; `source` says where the figure comes from."""
    evidence = f"{units.size(needed)} needed ({source}), {units.size(there)} free"
    if needed > there:
        remedy = "lower batch_tokens (raise accumulation as much), adapt with lora, or take a smaller model"
        return [fail("memory-short", f"{what} does not fit into memory", remedy, evidence=evidence)]
    if needed > _TIGHT * there:
        remedy = "close other programs, or lower batch_tokens and raise accumulation as much"
        return [warn("memory-tight", f"{what} hardly fits into memory", remedy, evidence=evidence)]
    return [info("memory-fits", f"{what} fits into memory", evidence=evidence)]


def disk(needed: float, free: float, place: str) -> list[Problem]:
    """Whether models, checkpoints and labels fit where they go."""
    evidence = f"about {units.size(needed)} needed, {units.size(free)} free at {place}"
    if needed > free:
        remedy = "free some space, or choose another disk with --set runs_dir=FOLDER"
        return [fail("disk-short", "the run does not fit onto the disk", remedy, evidence=evidence)]
    return [info("disk-fits", "the run fits onto the disk", evidence=evidence)]


def duration(what: str, seconds: float, *, source: str) -> list[Problem]:
    """How long training takes."""
    told = f"{what} takes about {units.seconds(seconds)} on this machine"
    if seconds > _LONG_SECONDS:
        remedy = "lower the budget, or ask `instil plan` for a larger machine"
        return [warn("time-long", told, remedy, evidence=source)]
    return [info("time", told, evidence=source)]


def passes(budget: str, read: float, whole: float) -> list[Problem]:
    """How much of the data, in tokens, a budget reads."""
    share = read / max(whole, 1.0)
    evidence = f"about {units.count(read)} of {units.count(whole)} tokens"
    if share < _FEW_PASSES:
        remedy = "raise the budget, or say with data.limit.train how many records are enough"
        return [warn("budget-short", f"{budget} read only {share:.1%} of the training data", remedy, evidence=evidence)]
    return [info("budget", f"{budget} read the training data {share:.2g} times", evidence=evidence)]
