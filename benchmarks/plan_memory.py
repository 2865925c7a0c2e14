"""How far is the predicted peak of memory from the measured one, and does what fitted fit?

    python -m benchmarks.plan_memory --data FILE.csv [--json] [--fit]

`median_ape` is of |predicted / measured - 1| over rows that fitted; `fit_recall` is the share of these that are said to
fit on their device, `misfit_recall` the share of rows that ran out of memory which are said not to. --fit finds the
coefficients anew on the file and writes them into the package.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fitting import keep_fit, solve, table_options
from benchmarks.plan import summary
from benchmarks.plan_memory_rows import Peak, peak_of, predicted
from benchmarks.plan_rows import Skipped, read_table
from instil.core import console
from instil.core.errors import InstilError
from instil.plan.memory import Coefficients, capacity

NEEDED = ("source", "hardware", "params_b", "method", "optimizer", "precision", "seq_len", "micro_batch", "peak_mem_gb")
PRIORS: dict[str, tuple[float, float]] = {
    "context": (0.9e9, 1.5),
    "kept_tuned": (0.9, 1.4),
    "kept_general": (1.4, 1.4),  # norms keep their input in fp32 besides
    "kept_adapters": (0.8, 1.3),
    "logits_tuned": (6.0, 1.4),
    "logits_general": (12.0, 1.3),  # logits in 16 bits, their copy in fp32, both gradients
    "logits_quantised": (8.0, 1.3),
    "chunk": (0.3e9, 1.5),
    "dequantised": (0.5e9, 1.6),
}


def read(path: Path) -> tuple[list[Peak], Counter[str]]:
    """Peaks to predict, and why others are not."""
    peaks, reasons = [], Counter[str]()
    for row in read_table(path, NEEDED):
        try:
            peaks.append(peak_of(row))
        except Skipped as reason:
            reasons[str(reason)] += 1
    return peaks, reasons


def fit(peaks: Sequence[Peak]) -> dict[str, float]:
    """The coefficients for these peaks."""
    fitted = [peak for peak in peaks if peak.measured]
    rows = Counter(peak.source for peak in fitted)
    shares = [rows[peak.source] ** -0.5 for peak in fitted]
    return solve(PRIORS, lambda v: [_log(peak, Coefficients(**v)) for peak in fitted], shares)


def _log(peak: Peak, c: Coefficients | None = None) -> float:
    return math.log(predicted(peak, c) / (peak.measured or math.nan))


def report(peaks: Sequence[Peak], reasons: Counter[str]) -> dict[str, Any]:
    """The whole result."""
    fitted = [peak for peak in peaks if peak.measured]
    burst = [peak for peak in peaks if not peak.measured]
    errors = [abs(math.exp(_log(peak)) - 1) for peak in fitted]
    groups: dict[str, list[float]] = defaultdict(list)
    for peak, error in zip(fitted, errors, strict=True):
        groups[f"{peak.source.partition(':')[2]} {peak.run.method}"].append(error)
    return {
        **summary(errors),
        "fit_recall": _share([_fits(peak) for peak in fitted]),
        "misfit_recall": _share([not _fits(peak) for peak in burst]),
        "skipped": dict(reasons),
        "by_source": {name: summary(found) for name, found in sorted(groups.items())},
    }


def _fits(peak: Peak) -> bool:
    return predicted(peak) <= capacity(peak.device)


def _share(said: Sequence[bool]) -> float | None:
    return round(sum(said) / len(said), 4) if said else None


def main() -> None:
    """Reads the options, prints the result."""
    options = table_options(__doc__)
    try:
        peaks, reasons = read(options.data)
    except InstilError as error:
        raise SystemExit(f"error: {error}") from error
    if options.fit:
        keep_fit("memory.json", fit(peaks), by="benchmarks.plan_memory", rows=len(peaks), data=options.data)
    result = report(peaks, reasons)
    if options.json:
        console.emit_json(result)
        return
    print(f"median {result['median_ape']:.1%} of {result['n']} peaks; {result['fit_recall']:.1%} of them said to fit")
    for name, found in result["by_source"].items():
        print(f"  {name:<32} {found['median_ape']:>6.1%} {found['p90_ape']:>6.1%} {found['n']:>5}")


if __name__ == "__main__":
    main()
