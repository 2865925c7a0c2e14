"""Does a teacher's reasoning help a student to answer? Label accuracy with rationales as a second task and without.

    python -m benchmarks.rationales FOLDER [--json] [--quick] [--minutes 10] [--seeds 3] [--items 400]
                                    [--runs runs/benchmark-rationales]

FOLDER has train, validation and test files whose records have source, label and rationale. For each seed, the recipe
recipes/methods/step-by-step.yaml trains two students for the same minutes: one that also learns to write the rationales
(Hsieh et al. 2023, arXiv 2305.02301), and one that learns from labels alone. An answer counts as right where the
recipe's pattern finds the label in it. The test is paired over questions, each with its mean over seeds. What is
finished is kept in `--runs`, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instil.core import console
from instil.evaluate.metrics.overlap import accuracy
from instil.evaluate.outputs import load_outputs
from instil.evaluate.significance import difference_interval, mean_interval, paired_p_value
from instil.run.pipeline import Pipeline
from instil.run.quiet import quiet_libraries
from instil.run.recipe_file import read_recipe
from instil.run.stages.evaluate import OUTPUTS_NAME, STUDENT, WITHOUT_TEACHER

RECIPE = Path(__file__).parents[1] / "recipes" / "methods" / "step-by-step.yaml"
SYSTEMS = {"with rationales": STUDENT, "labels alone": WITHOUT_TEACHER}
_QUICK = (
    "distil.loop.budget={steps: 2}", "evaluate.items=4", "evaluate.max_new_tokens=4", "evaluate.latency_items=1",
    "data.limit={train: 40, test: 8}",
)  # fmt: skip


def answers(options: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """The accuracy of each student's every answer, 100 or 0, after training from `seed`."""
    changes = [
        f"data.source={options.folder.resolve()}", f"student_seed={seed}", f"runs_dir={options.runs.resolve()}",
        f"distil.loop.budget={{minutes: {options.minutes}}}", f"evaluate.items={options.items}",
        *(_QUICK if options.quick else ()), *options.set,
    ]  # fmt: skip
    recipe = read_recipe(RECIPE, tuple(changes))
    folder = Pipeline(recipe, Path()).evaluation.folder / OUTPUTS_NAME
    metric = accuracy("1", re.compile(recipe.evaluate.answer or ".+"))
    return {
        name: metric.count(load_outputs(folder / f"{system}.jsonl")).each.tolist() for name, system in SYSTEMS.items()
    }


def compare(seeds: Sequence[dict[str, list[float]]]) -> dict[str, Any]:
    """Accuracy of both by seed and over all, and the test of no difference."""
    means = {name: np.mean([each[name] for each in seeds], axis=0) for name in SYSTEMS}
    told, alone = (means[name] for name in SYSTEMS)
    return {
        "items": len(told),
        "seeds": [{name: float(np.mean(values)) for name, values in each.items()} for each in seeds],
        "accuracy": {name: mean_interval(values, seed=0).model_dump() for name, values in means.items()},
        "difference": difference_interval(told, alone, seed=0).model_dump(),
        "p_value": paired_p_value(told, alone, seed=0),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps, four questions")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-rationales"))
    parser.add_argument("--set", action="append", default=[], help="change a value of the recipe")
    options = parser.parse_args()
    quiet_libraries()
    found = compare([answers(options, seed) for seed in range(1 if options.quick else options.seeds)])
    if options.json:
        console.emit_json(found)
        return
    for name, mean in found["accuracy"].items():
        each = ", ".join(f"{seed[name]:.1f}" for seed in found["seeds"])
        print(f"{name:<16} {mean['value']:5.1f}% ({mean['low']:.1f} to {mean['high']:.1f})  seeds: {each}")
    gained = found["difference"]
    print(f"difference {gained['value']:+.1f} points ({gained['low']:+.1f} to {gained['high']:+.1f}), ", end="")
    print(f"p = {found['p_value']:.4f}, {found['items']} questions")


if __name__ == "__main__":
    main()
