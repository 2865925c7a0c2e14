"""Which layers should a student keep, and how good is the best student of an hour?

    python -m benchmarks.students [--json] [--quick] [--minutes 5 | --steps N | --tokens N] [--layers 10,14,18]
                                  [--seeds 2] [--items 300] [--hour RECIPE] [--folder runs/benchmark-students]

The quickstart's teacher and labels, students of 10, 14 and 18 of its 30 layers by even spacing, block influence and
greedy removal, cuts mended, each distilled for the same budget; ROUGE-L on validation records, with intervals, and the
median latency of one request. Which choice wins by how much is the mean over numbers of layers and seeds. The greedy
order is found once: the layers that ten keep are among those that fourteen keep.

`--hour` names a recipe whose run makes the best student of an hour; its retention and speed-up stand in `best_hour`.
Everything is kept in `--folder`, so that the same command goes on where it was stopped, row by row.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.real import encode, load_teacher
from instil.core import console, publish
from instil.evaluate.compare import evaluate_systems
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.models.layers import stack_of
from instil.models.students.greedy import remove_greedily
from instil.run.pipeline import Pipeline
from instil.run.quiet import quiet_libraries
from instil.run.recipe_file import read_recipe
from instil.run.stages.made_models import load_made

CHOICES = ("even", "block-influence", "greedy")
RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
LATENCY_ITEMS = 30


def greedy_order(fewest: int, calibration: int, folder: Path) -> dict[str, Any]:
    """How many `layers` the teacher has, and which are `removed`, in order, until `fewest` are left."""
    place = folder / f"greedy-{fewest}-{calibration}.json"
    if not place.is_file():
        loaded = load_teacher("smollm2")
        family, count = family_of(loaded.model), len(stack_of(loaded.model).layers)
        examples = encode(loaded, 0, calibration)
        with console.progress("greedy", count - fewest, "removed") as advance:
            removed = remove_greedily(loaded.model, family, examples, count - fewest, advance=advance)
        found = {"layers": count, "removed": [removal.layer for removal in removed]}
        publish.write_text(place, json.dumps(found))
    order: dict[str, Any] = json.loads(place.read_text())
    return order


def section_of(layers: int, choice: str, greedy: dict[str, Any], calibration: int) -> dict[str, Any]:
    """The `student` section of a row's recipe."""
    if choice != "greedy":
        return {"layers": layers, "choice": choice, "calibration": calibration}
    gone = greedy["removed"][: greedy["layers"] - layers]
    kept = [number for number in range(greedy["layers"]) if number not in gone]
    return {"choice": "listed", "keep": kept, "calibration": calibration}


def examined(pipeline: Pipeline, items: int) -> dict[str, Any]:
    """Quality and latency of the pipeline's student, which is made if need be."""
    recipe, student = pipeline.recipe, pipeline.student
    place = pipeline.root / f"examined-{student.fingerprint}-{items}.json"
    if not place.is_file():
        loaded = load_made(student)
        system = TransformersGenerator(
            loaded.model, loaded.tokenizer, recipe.prompt, name="student", max_source_tokens=recipe.limits.source
        )
        found = evaluate_systems(
            {"student": system}, pipeline.data.splits["validation"][:items], seed=recipe.seed,
            max_new_tokens=recipe.evaluate.max_new_tokens, latency_items=min(LATENCY_ITEMS, items),
        )  # fmt: skip
        publish.write_text(place, json.dumps(found["student"].summary()))
    summary: dict[str, Any] = json.loads(place.read_text())
    return summary


def compare(options: argparse.Namespace, budget: dict[str, float]) -> Iterator[dict[str, Any]]:
    """A row for each number of layers, choice and seed."""
    greedy = greedy_order(min(options.layers), options.calibration, options.folder)
    for layers in options.layers:
        for choice in CHOICES:
            section = section_of(layers, choice, greedy, options.calibration)
            for seed in range(options.seeds):
                changes = {
                    "student": section, "distil.loop.budget": budget, "seed": seed, "distil.without_teacher": False,
                }  # fmt: skip
                recipe = read_recipe(RECIPE, tuple(f"{key}={json.dumps(value)}" for key, value in changes.items()))
                found = examined(Pipeline(recipe, options.folder), options.items)
                assert recipe.distil is not None
                kept = {"layers": layers, "choice": choice, "seed": seed, "budget": str(recipe.distil.loop.budget)}
                numbers = {key: found["rougeL"][key] for key in ("low", "high")}
                yield kept | {"rougeL": found["rougeL"]["value"], **numbers, "latency_ms_p50": found["latency_ms_p50"]}


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each choice's mean ROUGE-L, the best first."""
    found = {choice: statistics.fmean(row["rougeL"] for row in rows if row["choice"] == choice) for choice in CHOICES}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def best_hour(place: Path, folder: Path) -> dict[str, Any]:
    """Retention and speed-up of the student that the recipe at `place` makes."""
    comparison, _ = Pipeline(read_recipe(place), folder).publish("")
    summary = comparison.summary()
    return {"recipe": place.name, "retention": summary["retention"], "speedup": summary["speedup"]}


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="three steps, 18 layers, one seed, 4 items")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="of distillation for each student; 5 unless given otherwise")
    budget.add_argument("--steps", type=int)
    budget.add_argument("--tokens", type=int)
    parser.add_argument("--layers", type=lambda text: [int(part) for part in text.split(",")], default=[10, 14, 18])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--calibration", type=int, default=32, help="examples that choices are measured on")
    parser.add_argument("--hour", type=Path, help="recipe of the best student of an hour")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-students"))
    options = parser.parse_args()
    if options.quick:
        options.minutes, options.tokens, options.steps = None, None, 3
        options.layers, options.seeds, options.items, options.calibration = [18], 1, 4, 2
    return options


def main() -> None:
    """Print the table, or with --json one object with `rows`, `means` and `best_hour`."""
    options = arguments()
    quiet_libraries()
    options.folder.mkdir(parents=True, exist_ok=True)
    given = {name: getattr(options, name) for name in ("minutes", "steps", "tokens")}
    budget = {name: value for name, value in given.items() if value} or {"minutes": 5}
    rows = []
    for row in compare(options, budget):
        rows.append(row)
        if not options.json:
            interval = f"{row['rougeL']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
            print(
                f"{row['layers']} layers  {row['choice']:<16} seed {row['seed']}  ROUGE-L {interval}"
                f"  {row['latency_ms_p50']:.0f} ms", flush=True,
            )  # fmt: skip
    ranked = means(rows)
    hour = best_hour(options.hour, options.folder) if options.hour else None
    if options.json:
        print(json.dumps({"rows": rows, "means": ranked, "best_hour": hour}))
        return
    (first, best), (second, next_best), *_ = ranked.items()
    print(
        f"{first} wins by {best - next_best:.2f} ROUGE-L over {second} (means of {len(rows) // len(CHOICES)} students)"
    )
    if hour:
        print(f"best student of an hour: retention {hour['retention']}, speed-up {hour['speedup']}")


if __name__ == "__main__":
    main()
