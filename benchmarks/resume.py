"""Is a run that was killed the same as one that was not?

    python -m benchmarks.resume [--json] [--quick] [--seed N]

A small model of random weights is taught, labels and is distilled on pairs of the built-in corpus: once without a
break, and once with SIGKILL at random moments of every stage, each time followed by the same command. Both must end
with the same weights, bit for bit. Nothing is downloaded. Exit code 0 where all hashes agree, 1 where they do not.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from instil.core import console
from instil.core.fingerprint import hash_file
from instil.run.quiet import quiet_libraries

STAGES = ("teach", "student", "label", "distil", "distil-without-teacher", "evaluate")
TRAINING = ("teach", "distil", "distil-without-teacher")
_COMMAND = [sys.executable, "-c", "from instil.run.cli import main; main()"]
_HASHED = ("*/model/model.safetensors", "*/store/shard-*.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One SIGKILL: in which stage, so many seconds after it began; in training, after `step` optimizer steps."""

    stage: str
    after_s: float
    step: int | None = None


def write_project(folder: Path, *, steps: int, records: int) -> None:
    """A recipe, pairs of the built-in corpus, and a teacher of random weights with a tokenizer made from the pairs."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from instil.data.config import DataConfig, SplitLimits
    from instil.data.load import load_splits
    from instil.data.records import write_jsonl
    from instil.models.loading import save_model

    splits, _ = load_splits(DataConfig(source="synopsis", limit=SplitLimits(train=records)), base=folder)
    write_jsonl(folder / "pairs.jsonl", splits["train"])
    words = ByteLevelBPETokenizer()
    sources = (record.source for record in splits["train"])
    words.train_from_iterator(sources, vocab_size=2000, special_tokens=["<pad>", "</s>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, pad_token="<pad>", eos_token="</s>")
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, **shape))
    save_model(model, tokenizer, folder / "teacher")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(_recipe(steps)), encoding="utf8")


def _recipe(steps: int) -> dict[str, object]:
    loop = {"budget": {"steps": steps}, "batch_tokens": 768, "checkpoint_steps": 5, "trackers": []}
    return {
        "name": "resume",
        "data": {"source": "pairs.jsonl", "clean": {"near_duplicates": None}},
        "prompt": {"kind": "template", "text": "{source}\n\nSynopsis:"},
        "limits": {"source": 96, "target": 24},
        "teacher": {"model": "teacher", "teach": {"adapt": {"kind": "full"}, "loop": loop}},
        "student": {"layers": 2, "calibration": 8},
        "distil": {"alpha": 0.7, "loop": loop},
        "evaluate": {"items": 8, "max_new_tokens": 8, "latency_items": 2},
    }


def _start(folder: Path, runs: str) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / f"{runs}.log"
    with log.open("wb") as file:
        command = [*_COMMAND, "run", "recipe.yaml", "--set", f"runs_dir={runs}"]
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=file), log


def run_whole(folder: Path, runs: str) -> None:
    """The run to its end. Raises `RuntimeError` with what it said when it fails."""
    process, log = _start(folder, runs)
    if process.wait() != 0:
        raise RuntimeError(f"instil run failed:\n{log.read_text(encoding='utf8')}")


def run_and_kill(folder: Path, runs: str, moment: Kill) -> Kill | None:
    """The run until `moment`: a step of a training stage, or else seconds into another one. Returns when it really was;
    None where the run was through before."""
    process, log = _start(folder, runs)
    begun = re.compile(rf"^{moment.stage}: (making|going on in) ", re.MULTILINE)
    try:
        started = None
        while process.poll() is None:
            if started is None and begun.search(log.read_text(encoding="utf8")):
                started = time.monotonic()
            if started is not None and _reached(folder / runs, moment, time.monotonic() - started):
                process.send_signal(signal.SIGKILL)
                process.wait()
                steps = _steps(folder / runs, moment.stage) if moment.step else None
                return Kill(stage=moment.stage, after_s=round(time.monotonic() - started, 2), step=steps)
            time.sleep(0.005)
        return None
    finally:
        process.kill()
        process.wait()


def _reached(runs: Path, moment: Kill, elapsed: float) -> bool:
    return elapsed >= moment.after_s if moment.step is None else _steps(runs, moment.stage) >= moment.step


def _steps(runs: Path, stage: str) -> int:
    history = next(runs.glob(f"*/{stage}-????????????????.part/history.jsonl"), None)
    return len(history.read_text(encoding="utf8").splitlines()) if history else 0


def seconds_of(runs: Path) -> dict[str, float]:
    """Wall time of each stage of a finished run."""
    manifests = {path.parent.name.rpartition("-")[0]: path for path in runs.glob("*/*/manifest.json")}
    return {stage: float(json.loads(manifests[stage].read_text(encoding="utf8"))["wall_s"]) for stage in STAGES}


def hashes(runs: Path) -> dict[str, str]:
    """SHA-256 of all weights and label shards of a finished run, by the stage and file."""
    files = [path for pattern in _HASHED for path in runs.glob(f"*/{pattern}")]
    return {f"{path.parents[1].name.rpartition('-')[0]}/{path.name}": hash_file(path) for path in sorted(files)}


def moments(dice: random.Random, duration: Mapping[str, float], *, steps: int, times: int) -> list[Kill]:
    """Random moments to kill at, in the order in which a run reaches them: `times` in each training stage."""
    found = []
    for stage in STAGES:
        if stage in TRAINING:
            drawn = sorted(dice.sample(range(1, steps), times))
            found += [Kill(stage=stage, after_s=0, step=step) for step in drawn]
        elif times > 1:
            found.append(Kill(stage=stage, after_s=dice.uniform(0, duration[stage])))
    return found


def compare(folder: Path, *, seed: int, quick: bool) -> dict[str, object]:
    """Both runs; what was killed when, and every hash of both."""
    steps = 20 if quick else 60
    write_project(folder, steps=steps, records=300 if quick else 1200)
    console.say("a run without a break")
    run_whole(folder, "whole")
    kills = []
    for moment in moments(random.Random(seed), seconds_of(folder / "whole"), steps=steps, times=1 if quick else 2):
        console.say(f"a run that is killed in {moment.stage}")
        kills.append(run_and_kill(folder, "killed", moment))
    console.say("the same command to the end")
    run_whole(folder, "killed")
    whole, killed = hashes(folder / "whole"), hashes(folder / "killed")
    return {
        "seed": seed, "kills": [asdict(kill) for kill in kills if kill], "uninterrupted": whole, "killed": killed,
        "same": whole == killed,
    }  # fmt: skip


def _table(found: dict[str, object]) -> str:
    whole, killed = found["uninterrupted"], found["killed"]
    assert isinstance(whole, dict) and isinstance(killed, dict) and isinstance(found["kills"], list)
    lines = [
        f"killed {kill['after_s']} s into {kill['stage']}" + (f", at step {kill['step']}" if kill["step"] else "")
        for kill in found["kills"]
    ]
    lines += [f"{name:<48} {whole[name][:16]}  {killed.get(name, 'missing')[:16]}" for name in whole]
    verdict = "the same bits" if found["same"] else "DIFFERENT"
    return "\n".join([*lines, f"{len(found['kills'])} kills (seed {found['seed']}): {verdict}"])


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="three kills in short runs instead of nine")
    parser.add_argument("--seed", type=int, default=None, help="repeat the moments of an earlier call")
    wanted = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if wanted.seed is None else wanted.seed
    quiet_libraries()
    with tempfile.TemporaryDirectory(prefix="instil-resume-") as folder:
        found = compare(Path(folder), seed=seed, quick=wanted.quick)
    print(json.dumps(found, indent=2) if wanted.json else _table(found))
    return 0 if found["same"] else 1


if __name__ == "__main__":
    sys.exit(main())
