"""The real models and texts that benchmarks share: a teacher, the built-in corpus, a student cut out of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import instil
from instil.core import console
from instil.data.prompts import Prompt
from instil.data.synopsis import load
from instil.data.tokens import Encoded, Limits, encode_records
from instil.labels.codec import Codec
from instil.labels.draw import Picks
from instil.labels.store import LabelStore
from instil.labels.teacher import Teacher
from instil.labels.writer import write_labels
from instil.models.adapters import load_adapter
from instil.models.family import family_of
from instil.models.loading import LoadedModel, load_model
from instil.models.students.depth import keep_layers
from instil.models.students.influence import block_influence, most_influential
from instil.objectives.fused import Mix
from instil.train.config import Budget, LoopConfig
from instil.train.loop import train
from instil.train.task import RowLoss, TextTask

PROMPT = Prompt(kind="template", text="{source}\n\nSynopsis:")
LIMITS = Limits(source=64, target=32)
MODELS = {"smollm2": "wheel:smollm2-135m-instruct", "gemma3": "wheel:gemma3-270m"}
STEPS_A_MINUTE = 18
"""Steps of 1,024 tokens that two cores take; a fixed number, so that other work on the machine changes nothing."""
_ADAPTER = Path(instil.__file__).parent / "models" / "shipped" / "synopsis-teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A teacher and its student, with examples of the train split that neither calibration nor training has used."""

    teacher: LoadedModel
    student: Any
    examples: list[Encoded]


def load_teacher(name: str) -> LoadedModel:
    """The model, with the shipped adapter where there is one for it. The Gemma licence is shown by the loader."""
    loaded = load_model(MODELS[name], accept_licences=("gemma",))
    return load_adapter(loaded, _ADAPTER) if name == "smollm2" else loaded


def encode(loaded: LoadedModel, first: int, count: int, limits: Limits = LIMITS) -> list[Encoded]:
    """`count` training examples from number `first` on."""
    records = load("train")[first : first + count]
    return encode_records(loaded.tokenizer, PROMPT, records, limits, loaded.kind)[0]


def label(loaded: LoadedModel, examples: Sequence[Encoded], codec: Codec, folder: Path) -> LabelStore:
    """A label store of `examples`, made and opened."""
    teacher = Teacher(model=loaded.model, family=family_of(loaded.model))
    write_labels(teacher, examples, folder, codec=codec, made_from={})
    return LabelStore(folder, expect={}, temperature=codec.temperatures[0])


def labels_of(found: Picks, codec: Codec) -> tuple[Tensor, Tensor]:
    """Ids and probabilities `(C, K)` of picks, as a reader gives them once they are stored."""
    drawn_CM = found.drawn_CM >= 0
    each_C1 = 1 - found.masses_CK.sum(-1, keepdim=True) / codec.unit
    each_C1 = each_C1 / drawn_CM.sum(-1, keepdim=True).clamp_min(1)
    probs_CK = torch.cat([found.masses_CK / codec.unit, drawn_CM * each_C1], -1)
    return torch.cat([found.head_CK, found.drawn_CM], -1), probs_CK.float()


def make_pair(name: str, *, layers: int, minutes: float, count: int) -> Pair:
    """A student of `layers` layers, distilled for `minutes` from the default labels, and `count` examples behind those
    that it has learned from."""
    loaded = load_teacher(name)
    learned = encode(loaded, 0, max(60, round(240 * minutes)))
    family = family_of(loaded.model)
    student = keep_layers(loaded.model, most_influential(block_influence(loaded.model, family, learned[:20]), layers))
    with tempfile.TemporaryDirectory() as folder:
        codec = Codec.of("default", Teacher(model=loaded.model, family=family).vocabulary)
        store = label(loaded, learned, codec, Path(folder) / "store")
        task = TextTask(
            RowLoss(student, family_of(student), Mix(soft=1.0, hard=0.0)), learned, (), {1.0: store.read}, 1024
        )
        budget = Budget(steps=max(1, round(STEPS_A_MINUTE * minutes)))
        config = LoopConfig(budget=budget, batch_tokens=1024, learning_rate=5e-4, trackers=(), checkpoint_minutes=1e6)
        steps = train(task, config, folder=Path(folder), seed=42)
        for _ in console.track(steps, f"{name}: distil", budget.steps or 1, "steps"):
            pass
    return Pair(teacher=loaded, student=student.eval(), examples=encode(loaded, 4000, count))
