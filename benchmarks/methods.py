"""Which way of teaching is worth its time? Every method against fine-tuning the same student on gold targets.

    python -m benchmarks.methods [--minutes 10 | --steps 8] [--methods response,features] [--seeds 3] [--items 300]
                                 [--records 1200] [--scitldr FOLDER] [--json] [--quick] [--runs runs/benchmark-methods]

Each recipe of recipes/methods is a way to the same student (18 of the teacher's 30 layers), trained for as many minutes
with each seed; the teacher's own work comes before and is told beside. ROUGE-L with intervals over items and seeds,
paired tests against fine-tuning, corrected for the number of methods (Holm), and, as ratios to fine-tuning, the seconds
of training a token and the peak of memory: of the device where there is one, else of the process, each run in one of
its own. The task is the quickstart's, and with --scitldr also that of the files in FOLDER, whose teacher is taught
first. What is finished is kept in --runs: the same command goes on from there.
Recipes with other data, another teacher or another student, or that train nothing, are said and left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from instil.core import console, publish, units
from instil.core.errors import ConfigError
from instil.run.compare.compare import Plan, read_plan
from instil.run.methods import all_methods
from instil.run.quiet import quiet_libraries
from instil.run.stages.compare import read_ways, run_compare

RECIPES = Path(__file__).parents[1] / "recipes" / "methods"
BASE = "response"
FINE_TUNING = "fine-tuning"
_SHARED = ("name", "data", "prompt", "limits", "teacher", "evaluate")
_QUICK = {"budget": {"steps": 2}, "items": 4, "records": 40}


def ways_of(chosen: list[str] | None, budget: dict[str, float]) -> dict[str, dict[str, Any]]:
    """What each method changes in the base recipe. Raises `ConfigError` for a method without a recipe."""
    known = [name for name in (method.recipe for method in all_methods()) if (RECIPES / f"{name}.yaml").is_file()]
    if unknown := [name for name in chosen or () if name not in known]:
        raise ConfigError(f"no method is called {unknown[0]!r}; choose among {', '.join(known)}")
    base = _raw(BASE)
    ways: dict[str, dict[str, Any]] = {
        FINE_TUNING: {"student": base["student"], "distil": base["distil"] | {"alpha": 0}}
    }
    for name in dict.fromkeys(chosen or known):
        raw = _raw(name)
        if other := _other(raw, base):
            console.say(f"{name}: left out, {other}, so it is not comparable")
        else:
            ways[name] = {key: value for key, value in raw.items() if key not in _SHARED}
    for way in ways.values():
        way["distil"] = way["distil"] | {"without_teacher": False, "loop": way["distil"]["loop"] | {"budget": budget}}
    return ways


def _other(raw: dict[str, Any], base: dict[str, Any]) -> str:
    """What a recipe has of its own that all ways should share; empty for nothing."""
    if raw["data"].get("also") or raw["data"]["source"] != base["data"]["source"]:
        return "its data are others"
    if "prompted" in raw["evaluate"]:
        return "it is about what is not trained"
    return next((f"its {part} is another" for part in ("teacher", "student") if raw[part] != base[part]), "")


def _raw(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf8"))
    return found


def quickstart(options: argparse.Namespace) -> dict[str, Any]:
    """The built-in task, whose teacher ships."""
    return {"data.limit": {"train": options.records}}


def scitldr(options: argparse.Namespace) -> dict[str, Any]:
    """Papers to one sentence; the teacher is taught for as long as a student learns."""
    loop = {"budget": options.budget, "batch_tokens": 1024, "learning_rate": 0.0002}
    return {
        "data": {"source": str(options.scitldr.resolve()), "limit": {"train": options.records}},
        "limits": {"source": 256, "target": 48},
        "prompt": {"kind": "template", "text": "{source}\n\nSummary:"},
        "teacher": {
            "model": "wheel:smollm2-135m-instruct",
            "teach": {"adapt": {"kind": "lora"}, "layer_drop": {"keep": 18}, "loop": loop},
        },
    }


def comparison_file(options: argparse.Namespace, task: str) -> Path:
    """Writes the comparison of all ways, as `instil compare` reads it."""
    ways = ways_of(options.methods, options.budget)
    common = quickstart(options) if task == "quickstart" else scitldr(options)
    if task == "scitldr":
        for way in ways.values():  # The layers that this teacher is taught to do with are not known beforehand.
            way["student"] = {"choice": "taught", "mend": False}
    common |= {
        "evaluate": {"items": options.items, "max_new_tokens": 48, "latency_items": 5, "fidelity_items": 0},
        "runs_dir": str(options.runs.resolve()),
    }
    path: Path = options.runs / f"{task}.yaml"
    whole = {
        "name": f"methods-{task}", "recipe": str(RECIPES / f"{BASE}.yaml"), "seeds": options.seeds,
        "against": FINE_TUNING, "common": common, "ways": ways,
    }  # fmt: skip
    publish.write_text(path, yaml.safe_dump(whole, sort_keys=False))
    return path


def train_one(path: Path, changes: list[str], name: str, until: str) -> None:
    """In a process of its own: what run `name` needs before its training, or the training; then the peak in bytes."""
    run = next(run for run in read_plan(path, changes).runs if run.name == name)
    if until == "student":
        _ = run.student
    else:
        _ = run.pipeline.labels, run.pipeline.untrained
    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "reused": until == "student" and run.student.reused}))


def peaks_of(path: Path, changes: list[str], plan: Plan, keep: Path) -> dict[str, int]:
    """Trains what is not trained yet, and the peak of each run's training where it was seen."""
    peaks: dict[str, int] = json.loads(keep.read_text()) if keep.is_file() else {}
    for number, run in enumerate(plan.runs, 1):
        if run.name in peaks:
            continue
        console.say(f"[{number}/{len(plan.runs)}] {run.name}")
        for until in ("labels", "student"):
            command = [sys.executable, "-m", "benchmarks.methods", "--one", run.name, "--until", until, str(path)]
            command += [part for change in changes for part in ("--set", change)]
            told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found = json.loads(told.splitlines()[-1])
        if not found["reused"]:
            peaks[run.name] = found["peak"]
            publish.write_text(keep, json.dumps(peaks, indent=2) + "\n")
    return peaks


def rows_of(path: Path, changes: list[str]) -> list[dict[str, Any]]:
    """A row for each way, fine-tuning first, then by score."""
    plan = read_plan(path, changes)
    peaks = peaks_of(path, changes, plan, path.with_suffix(".peaks.json"))
    ways, _ = read_ways(run_compare(plan)[0])
    basis = ways[FINE_TUNING]
    rows = []
    for way in sorted(ways.ways, key=lambda one: (one.name != FINE_TUNING, -one.score.value)):
        row = json.loads(way.model_dump_json(exclude={"latency", "bytes"}))
        rows.append(row | {"items": ways.n, **_ratios(row, basis.model_dump(), peaks, plan)})
    return rows


def _ratios(way: dict[str, Any], basis: dict[str, Any], peaks: dict[str, int], plan: Plan) -> dict[str, Any]:
    """Seconds of training a token, and the highest peak of a run, over those of fine-tuning; None where not seen."""

    def peak(name: str) -> int | None:
        return max((peaks[run.name] for run in plan.runs if run.way == name and run.name in peaks), default=None)

    both = [one["train_seconds"] / one["tokens"] if one["tokens"] else None for one in (way, basis)]
    held = peak(way["name"]), peak(basis["name"])
    return {
        "time_ratio": both[0] / both[1] if both[0] and both[1] else None,
        "memory_ratio": held[0] / held[1] if held[0] and held[1] else None,
    }


def show(task: str, rows: list[dict[str, Any]]) -> None:
    """The table of one task. Time and memory are of training, over fine-tuning's; `teacher` is how long it worked
    beforehand, once for all seeds."""
    print(f"\n{task}: {rows[0]['items']} items, {rows[0]['seeds']} seeds")
    print(
        f"{'method':<20}{'ROUGE-L (95%)':<24}{'over fine-tuning':<26}{'p':>8}{'time':>7}{'memory':>8}"
        f"{'teacher':>12}   by seed"
    )
    for row in rows:
        gap, p = row["difference"], row["p_corrected"]
        told = f"{gap['value']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f})" if gap else ""
        score = f"{row['score']['value']:.1f} ({row['score']['low']:.1f} to {row['score']['high']:.1f})"
        ratios = "".join(
            f"{'' if row[key] is None else format(row[key], '.2f'):>{width}}"
            for key, width in (("time_ratio", 7), ("memory_ratio", 8))
        )
        each = ", ".join(f"{value:.1f}" for value in row["by_seed"])
        before = units.seconds(row["prepare_seconds"]) if row["prepare_seconds"] >= 1 else ""
        told_p = "" if p is None else format(p, ".4f")
        print(f"{row['name']:<20}{score:<24}{told:<26}{told_p:>8}{ratios}{before:>12}   {each}")
    better = [row["name"] for row in rows if row["p_corrected"] is not None and row["p_corrected"] < 0.05]
    won = [name for name in better if next(row for row in rows if row["name"] == name)["difference"]["value"] > 0]
    print(f"better than fine-tuning (p < 0.05, corrected): {', '.join(won) or 'none'}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("file", type=Path, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--until", default="student", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="two steps, one seed, four items")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, help="instead of --minutes: what a step costs, not what the time buys")
    parser.add_argument("--methods", type=lambda text: text.split(","), help="recipes by name, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--records", type=int, default=1200, help="training records")
    parser.add_argument("--scitldr", type=Path, help="a folder with train, validation and test files")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-methods"))
    parser.add_argument("--set", action="append", default=[], help="change a value of all recipes")
    options = parser.parse_args()
    quiet_libraries()
    if options.one:
        train_one(options.file, options.set, options.one, options.until)
        return
    options.budget = {"steps": options.steps} if options.steps else {"minutes": options.minutes}
    if options.quick:
        options.budget = _QUICK["budget"]
        options.seeds, options.items, options.records = 1, _QUICK["items"], _QUICK["records"]
    found = {
        task: rows_of(comparison_file(options, task), options.set)
        for task in ("quickstart", *(["scitldr"] if options.scitldr else []))
    }
    if options.json:
        console.emit_json(found)
        return
    for task, rows in found.items():
        show(task, rows)


if __name__ == "__main__":
    main()
