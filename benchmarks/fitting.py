"""Least squares for coefficients that are positive: in logarithms, damped, robust, pulled towards priors.

A prior is a value and how many times larger or smaller it may easily be.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from instil.plan import tables

Priors = Mapping[str, tuple[float, float]]
Values = dict[str, float]

HUBER = 0.15
NOISE = 0.08
"""Of one measurement against another of the same: 4 to 6%, and what a row leaves untold."""
ROUNDS = 25
STEP = 1e-4


def table_options(doc: str | None) -> argparse.Namespace:
    """The options of a benchmark that judges a table of measurements and may fit its coefficients anew."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--fit", action="store_true")
    return parser.parse_args()


def keep_fit(name: str, values: Values, *, by: str, rows: int, data: Path) -> None:
    """Writes `values` as the package's table `name`, with what they were made of; read anew from then on."""
    made = {"made": f"{by} --fit on {rows} rows of {data.name}", **values}
    (tables.FOLDER / name).write_text(json.dumps(made, indent=2) + "\n", encoding="utf8")
    tables.json_of.cache_clear()


def solve(priors: Priors, residuals: Callable[[Values], Sequence[float]], shares: Sequence[float]) -> Values:
    """Values that make `residuals`, each log(predicted / measured), small; `shares` are their weights."""
    names = list(priors)
    start = np.log([value for value, _ in priors.values()])
    stiff = 1 / np.log([spread for _, spread in priors.values()])
    weights = np.sqrt(shares) / NOISE
    point, damping = start.copy(), 1e-2

    def at(where: np.ndarray) -> np.ndarray:
        return np.asarray(residuals(dict(zip(names, np.exp(where).tolist(), strict=True))))

    here = at(point)
    cost = _cost(here, weights, (point - start) * stiff)
    for _ in range(ROUNDS):
        slope = np.stack([(at(point + step) - here) / STEP for step in np.eye(len(names)) * STEP], 1)
        huber = np.sqrt(HUBER / np.maximum(np.abs(here), HUBER)) * weights
        left = np.concatenate([slope * huber[:, None], np.diag(stiff), np.eye(len(names)) * math.sqrt(damping)])
        right = np.concatenate([here * huber, (point - start) * stiff, np.zeros(len(names))])
        trial = point - np.clip(np.linalg.lstsq(left, right)[0], -0.5, 0.5)
        there = at(trial)
        found = _cost(there, weights, (trial - start) * stiff)
        if found >= cost:
            damping *= 10
            continue
        done = cost - found < 1e-4 * cost
        point, here, cost, damping = trial, there, found, damping / 3
        if done:
            break
    return {name: float(f"{math.exp(value):.4g}") for name, value in zip(names, point, strict=True)}


def _cost(residuals: np.ndarray, weights: np.ndarray, pulled: np.ndarray) -> float:
    size = np.abs(residuals)
    each = np.where(size < HUBER, size**2, 2 * HUBER * size - HUBER**2)
    return float((each * weights**2).sum() + (pulled**2).sum())
