"""A small distillation project on disk: tiny random models, pairs made of a few words, and a recipe."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import transformers as hf
import yaml

import tiny

_WORDS = "red blue green cat dog fish runs eats sees big small old new house tree".split()


@functools.cache
def models_folder() -> Path:
    """Folders `t5`, `llama`, `qwen3` and `bert` with tiny random models, made once in a test session."""
    root = Path(tempfile.mkdtemp(prefix="instil-models-"))
    decoders = (("llama", "decoder-only"), ("qwen3", "decoder-only"))
    for name, kind in (("t5", "encoder-decoder"), *decoders, ("bert", "encoder-decoder")):
        config = hf.BertConfig(vocab_size=264, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
        model = hf.BertForMaskedLM(config) if name == "bert" else tiny.tiny_model(name)
        model.save_pretrained(root / name)
        tiny.tiny_tokenizer(kind).save_pretrained(root / name)
    return root


def write_pairs(
    path: Path, count: int, *, words: int = 8, names: tuple[str, str, str] = ("id", "source", "target")
) -> Path:
    """`count` pairs as JSONL: a source of `words` words, and its first two as the target."""
    dice = random.Random(count)
    with path.open("w", encoding="utf8") as file:
        for number in range(count):
            source = [dice.choice(_WORDS) for _ in range(words)]
            row = dict(zip(names, (str(number), " ".join(source), " ".join(source[:2])), strict=True))
            file.write(json.dumps(row) + "\n")
    return path


def recipe(kind: str = "t5", **sections: Any) -> dict[str, Any]:
    """The recipe of a project with pairs in `pairs.jsonl`: T5 taught whole, or Llama through LoRA and with its own
    outputs as targets. `sections` are merged in."""
    loop = {"budget": {"steps": 8}, "batch_tokens": 512, "checkpoint_steps": 2, "trackers": []}
    basis: dict[str, Any] = {
        "name": kind,
        "data": {"source": "pairs.jsonl", "clean": {"near_duplicates": None}},
        "prompt": {"kind": "prefix", "text": "sum: "},
        "limits": {"source": 64, "target": 16},
        "teacher": {
            "model": str(models_folder() / kind),
            "teach": {"adapt": {"kind": "full" if kind == "t5" else "lora"}, "loop": loop},
        },
        "labels": {"head": 4, "temperatures": [2.0], "targets": "gold" if kind == "t5" else "teacher"},
        "student": {"layers": 1, "calibration": 4},
        "distil": {"alpha": 0.7, "temperature": 2.0, "loop": loop},
        "evaluate": {"items": 6, "max_new_tokens": 6, "latency_items": 2},
    }
    return _merged(basis, sections)


def _merged(basis: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(basis[key], value) for key, value in changes.items() if isinstance(value, dict) and key in basis
    }
    return {**basis, **changes, **both}


def project(folder: Path, kind: str = "t5", *, pairs: int = 200, **sections: Any) -> Path:
    """A new folder with `recipe.yaml` and `pairs.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_pairs(folder / "pairs.jsonl", pairs)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(kind, **sections), sort_keys=False), encoding="utf8")
    return folder


def finished(folder: Path, stage: str) -> Path:
    """The one finished artifact of `stage` in a project."""
    (found,) = (path.parent for path in folder.glob(f"runs/*/{stage}-*/manifest.json") if _stage(path.parent) == stage)
    return found


def _stage(folder: Path) -> str:
    return folder.name.rpartition("-")[0]


def weights(folder: Path, stage: str = "distil") -> str:
    """SHA-256 of the weights that `stage` made, 64 hex digits."""
    return hashlib.sha256((finished(folder, stage) / "model" / "model.safetensors").read_bytes()).hexdigest()


def results(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a finished run that must come out the same whatever happened on the way."""
    kept = ("model.safetensors", "adapter_model.safetensors", "train.jsonl", "targets.jsonl", "shard-*.safetensors")
    files = [path for pattern in kept for path in sorted(folder.glob(f"runs/*/*/**/{pattern}"))]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
