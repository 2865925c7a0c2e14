"""How far are predicted tokens a second from measured ones?

    python -m benchmarks.plan --data FILE.csv [--json] [--cross-validate source|hardware] [--more MANY.csv]

`median_ape` and `p90_ape` are of |predicted / measured - 1| over the rows of dense models in bf16 or fp16; `skipped`
counts the others by reason, and `skipped_dense_16` those of them that are dense and of 16 bits. `covered` is the share
of rows within the interval that the planner prints (it is meant to hold four fifths). With --cross-validate each row is
predicted by coefficients that were fitted without its source, or its hardware; --more are runs that only the fit sees.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plan_fit import EVERY, load_runs, residual, without_each
from benchmarks.plan_rows import Run, Skipped, is_dense_16, outside, read_rows, run_of
from instil.core import console
from instil.core.errors import InstilError
from instil.plan.time import Coefficients, coefficients, spread

KEYS: dict[str, Callable[[Run], str]] = {"source": lambda run: run.source, "hardware": lambda run: run.hardware}


def read(path: Path) -> tuple[list[Run], Counter[str], dict[str, int]]:
    """Runs to predict, the reasons why others are not, and counts of dense 16-bit rows: all and skipped."""
    runs: list[Run] = []
    reasons: Counter[str] = Counter()
    dense = {"all": 0, "skipped": 0}
    for row in read_rows(path):
        if not is_dense_16(row):
            reasons[outside(row)] += 1
            continue
        dense["all"] += 1
        try:
            runs.append(run_of(row))
        except Skipped as reason:
            reasons[str(reason)] += 1
            dense["skipped"] += 1
    return runs, reasons, dense


def summary(errors: Sequence[float]) -> dict[str, Any]:
    """Median, 90th percentile and number of absolute errors."""
    ordered = sorted(errors)
    return {"median_ape": _quantile(ordered, 0.5), "p90_ape": _quantile(ordered, 0.9), "n": len(ordered)}


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return round(ordered[low] + (place - low) * (ordered[high] - ordered[low]), 4)


def report(path: Path, left_out: str | None, more: Path | None) -> dict[str, Any]:
    """The whole result."""
    runs, reasons, dense = read(path)
    key = KEYS[left_out or "source"]
    known: dict[str, Coefficients] = {}
    if left_out:
        known = without_each(runs, key, load_runs(more)[::EVERY] if more else ())
    logs = [residual(run, known.get(key(run), coefficients())) for run in runs]
    errors = [abs(math.exp(each) - 1) for each in logs]
    inside = sum(abs(each) <= spread(run.stack) for run, each in zip(runs, logs, strict=True))
    return {
        **summary(errors),
        "covered": round(inside / len(logs), 3) if logs else None,
        "cross_validated": left_out,
        "skipped": dict(reasons.most_common()),
        "skipped_dense_16": dense["skipped"],
        "skipped_dense_16_share": round(dense["skipped"] / dense["all"], 4) if dense["all"] else None,
        **{f"by_{name}": _grouped(runs, errors, key) for name, key in KEYS.items()},
    }


def _grouped(runs: Sequence[Run], errors: Sequence[float], key: Callable[[Run], str]) -> dict[str, Any]:
    groups: dict[str, list[float]] = defaultdict(list)
    for run, error in zip(runs, errors, strict=True):
        groups[key(run)].append(error)
    return {name: summary(found) for name, found in sorted(groups.items())}


def show(result: dict[str, Any]) -> None:
    """The result as a person reads it."""
    print(f"median {result['median_ape']:.1%}, 90th percentile {result['p90_ape']:.1%} of {result['n']} runs")
    for name in KEYS:
        for group, found in result[f"by_{name}"].items():
            print(f"  {group:<24} {found['median_ape']:>6.1%} {found['p90_ape']:>6.1%} {found['n']:>5}")
    for reason, count in result["skipped"].items():
        print(f"  skipped {count:>4}: {reason}")


def main() -> None:
    """Reads the options, prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--more", type=Path)
    parser.add_argument("--cross-validate", choices=sorted(KEYS), nargs="?", const="source")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        result = report(options.data, options.cross_validate, options.more)
    except InstilError as error:
        raise SystemExit(f"error: {error}") from error
    if options.json or not result["n"]:
        console.emit_json(result)
    else:
        show(result)


if __name__ == "__main__":
    main()
