"""Fits the coefficients of the time model on published measurements.

    python -m benchmarks.plan_fit --data training.csv [--more many.csv] [--write]

The fit is `benchmarks.fitting` on log(predicted / measured); priors stand in `PRIORS` with their reasons. A source
counts as the square root of its rows, so that a long table does not decide alone. `--write` puts the result into the
package.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.fitting import solve
from benchmarks.plan_rows import Run, Skipped, is_dense_16, read_rows, run_of
from instil.core import console
from instil.plan import tables
from instil.plan.time import Coefficients, tokens_a_second

PRIORS: dict[str, tuple[float, float]] = {
    # name: (value, how many times larger or smaller it may easily be)
    "product": (0.90, 1.15),  # a layer's products are near the best one in shape
    "product_tpu": (1.0, 1.15),  # XLA tiles all shapes alike
    # FlashAttention 2, causal, forward and backward: 0.65 of the best product on A100, 0.41 on H100 (arXiv 2307.08691
    # and 2407.08608), so exponentials bound it more than products do.
    "attention": (3.0, 1.3),
    "softmax": (0.009, 1.3),
    "scores": (10.0, 1.6),  # scores, softmax, mask and dropout, written and read
    "overlap_tpu": (0.3, 1.6),
    "traffic": (140.0, 1.4),  # 45 forward: products 16, activation 8, norms 8, queries to values 7, sums 6; twice back
    "traffic_tpu": (60.0, 1.6),  # XLA fuses what stands between products
    "traffic_adapters": (200.0, 1.6),  # seven pairs of thin products, half of it in fp32
    "traffic_general": (300.0, 1.4),  # norms and rotation kernel by kernel in fp32
    "narrow": (150.0, 1.6),
    "launch_tuned": (1e-3, 2.0),  # some 40 kernels of 10 microseconds
    "launch_general": (4e-3, 2.0),  # some 400: unfused, with adapters
    "launch_gathering": (6e-3, 2.0),
    "exposed": (0.15, 1.6),
    "link": (0.6, 1.4),
    "network": (0.6, 1.4),
    "scale": (0.015, 1.6),
    "tensor": (0.04, 1.6),
}
EVERY = 6
"""Of a table of many alike runs, every sixth tells as much."""


def load_runs(path: Path) -> list[Run]:
    """All dense 16-bit runs of a table that tell enough."""
    runs = []
    for row in read_rows(path):
        if is_dense_16(row):
            try:
                runs.append(run_of(row))
            except Skipped:
                continue
    return runs


def fit(runs: Sequence[Run]) -> Coefficients:
    """The coefficients for these runs; the priors alone where there are none."""
    rows = Counter(run.source for run in runs)
    shares = [rows[run.source] ** -0.5 for run in runs]
    found = solve(PRIORS, lambda values: [residual(run, Coefficients(**values)) for run in runs], shares)
    return Coefficients(**found)


def residual(run: Run, c: Coefficients | None = None) -> float:
    """log(predicted / measured)."""
    return math.log(tokens_a_second(run.load, run.batch, run.device, run.layout, run.stack, c) / run.measured)


def without_each(runs: Sequence[Run], key: Callable[[Run], str], more: Sequence[Run] = ()) -> dict[str, Coefficients]:
    """For each value of `key` the coefficients that the other runs, and `more` of other values, give."""
    everything = [*runs, *more]
    return {left_out: fit([run for run in everything if key(run) != left_out]) for left_out in {key(r) for r in runs}}


def of_source(run: Run) -> str:
    """What cross-validation leaves out."""
    return run.source


def _quantile(sizes: Sequence[float], share: float) -> float:
    return round(sorted(sizes)[int(share * (len(sizes) - 1))], 4)


def main() -> None:
    """Fits and prints; with --write, puts the result into the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what intervals are measured on, too")
    parser.add_argument("--more", type=Path, help="runs that only the fit sees")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    runs, more = load_runs(options.data), load_runs(options.more)[::EVERY] if options.more else []
    found = fit([*runs, *more])
    others = without_each(runs, of_source, more)
    left = [(run.stack, abs(residual(run, others[run.source]))) for run in runs]
    made = {
        "made": f"benchmarks.plan_fit on {len(runs)} runs of {options.data.name} and {len(more)} more",
        **{name: getattr(found, name) for name in PRIORS},
        "spread": {stack: _quantile([each for of, each in left if of == stack], 0.8) for stack in ("tuned", "general")},
    }
    if options.write:
        (tables.FOLDER / "time.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf8")
    console.emit_json(made)


if __name__ == "__main__":
    main()
