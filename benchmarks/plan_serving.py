"""How far is the predicted throughput of served models from the published one?

    python -m benchmarks.plan_serving --data FILE.csv [--json] [--fit]

Rows of dense models in bf16, fp16 or fp8 with told lengths, at full load. --fit writes the coefficients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.fitting import keep_fit, solve, table_options
from benchmarks.plan import summary
from benchmarks.plan_rows import Row, Skipped, read_table
from instil.core import console
from instil.core.errors import ConfigError, InstilError, ModelError
from instil.plan.hardware import named_like
from instil.plan.inference import Coefficients, Serving, fits, output_rate
from instil.plan.models import find_model

NEEDED = ("model", "hardware", "n_accelerators", "precision", "input_len", "output_len", "load")
PRIORS: dict[str, tuple[float, float]] = {
    "reading": (0.55, 1.4),  # of the best product, in large batches of prompts
    "writing": (0.6, 1.4),  # of the bandwidth
    "step": (5e-3, 1.6),  # seconds: launches, sampling, the scheduler
}
ALIASES = {"llama-3.3-70b": "llama-3.1-70b", "llama-2-70b": "llama-3.1-70b"}

Case = tuple[Serving, float, float, float]
"""What is served, source and target tokens, measured output tokens a second of all devices."""


def case_of(row: Row) -> Case:
    """What a row tells of. Raises `Skipped` with the reason where it tells too little."""
    precision = row["precision"].split()[0]
    if precision not in ("bf16", "fp16", "fp8"):
        raise Skipped(f"precision {precision}")
    if "offline" not in row["load"].lower():
        raise Skipped("not at full load")
    name = row["model"].lower()
    try:
        source = float(row["input_len"])
        target, measured = float(row["output_len"]), float(row["output_tokens_per_s_total"] or "nan")
        shape, device = find_model(ALIASES.get(name, name)), named_like(row["hardware"])
    except (ValueError, ModelError, ConfigError) as error:
        raise Skipped("lengths, model or device not known") from error
    width = 1.0 if precision == "fp8" else 2.0
    serving = Serving(
        shape=shape, device=device, devices=int(row["n_accelerators"]), weight_bytes=width, cache_bytes=width
    )
    if math.isnan(measured) or shape.experts or not fits(serving, source + target):
        raise Skipped("no number, or mixture of experts")
    return serving, source, target, measured


def _log(case: Case, c: Coefficients | None = None) -> float:
    serving, source, target, measured = case
    return math.log(output_rate(serving, source, target, c) / measured)


def report(cases: Sequence[Case], reasons: Counter[str]) -> dict[str, Any]:
    """The whole result."""
    return {**summary([abs(math.exp(_log(case)) - 1) for case in cases]), "skipped": dict(reasons)}


def main() -> None:
    """Reads the options, prints the result."""
    options = table_options(__doc__)
    cases, reasons = [], Counter[str]()
    try:
        rows = read_table(options.data, NEEDED)
    except InstilError as error:
        raise SystemExit(f"error: {error}") from error
    for row in rows:
        try:
            cases.append(case_of(row))
        except Skipped as reason:
            reasons[str(reason)] += 1
    if options.fit:
        found = solve(PRIORS, lambda values: [_log(case, Coefficients(**values)) for case in cases], [1.0] * len(cases))
        keep_fit("inference.json", found, by="benchmarks.plan_serving", rows=len(cases), data=options.data)
    result = report(cases, reasons)
    if options.json:
        console.emit_json(result)
    else:
        print(f"median {result['median_ape']:.1%}, 90th percentile {result['p90_ape']:.1%} of {result['n']} rows")


if __name__ == "__main__":
    main()
