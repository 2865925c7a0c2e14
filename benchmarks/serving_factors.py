"""Of what a student's speed is made: layers, their width, its vocabulary, the length of its texts, engine, precision.

The first three are timed on models of the teacher's architecture with random weights, each a step nearer to the
student's sizes, that read the same prompts and write the same number of tokens: speed goes by sizes alone. What is left
of the speed-up of real texts in transformers is that the student's are longer or shorter. All multiply to the whole.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from benchmarks.serving_parts import export_of, served, stage_of
from instil.export.student import open_student
from instil.run.servable import specs_of

_WRITTEN = 12
_LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "layer_types")


def steps(teacher: Any, student: Any) -> dict[str, Any]:
    """Configs from the teacher's to the student's, each by what it changes."""
    shallow, narrow = copy.deepcopy(teacher), copy.deepcopy(student)
    for name in _LAYERS:
        if hasattr(teacher, name) and hasattr(student, name):
            setattr(shallow, name, copy.deepcopy(getattr(student, name)))
    narrow.vocab_size = teacher.vocab_size
    return {"teacher": teacher, "depth": shallow, "width": narrow, "vocabulary": student}


@torch.inference_mode()
def of_sizes(teacher: Any, student: Any, prompts: Sequence[Sequence[int]]) -> dict[str, float]:
    """How many times as fast each step is as the one before: the median over `prompts`, on which all take turns."""
    auto: Any = hf.AutoModelForSeq2SeqLM if teacher.is_encoder_decoder else hf.AutoModelForCausalLM
    models = {name: auto.from_config(config).eval() for name, config in steps(teacher, student).items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for prompt in [prompts[0], *prompts]:
        for name, model in models.items():
            begun = time.perf_counter()
            model.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=_WRITTEN, min_new_tokens=_WRITTEN,
                pad_token_id=model.config.pad_token_id or 0,
            )  # fmt: skip
            seconds[name].append(time.perf_counter() - begun)
    return {
        after: statistics.median(a / b for a, b in zip(seconds[before][1:], seconds[after][1:], strict=True))
        for before, after in pairwise(models)
    }


def factors(
    run: Path, scratch: Path, best: str, p50_ms: Mapping[str, float], sources: Sequence[str], threads: int | None
) -> dict[str, float]:
    """By name, in the order in which they multiply to the teacher's `p50_ms` on transformers over that of `best`."""
    student, teacher = open_student(stage_of(run, "student")), open_student(scratch / "teacher")
    prompts = [student.read(source) for source in sources]
    found = of_sizes(teacher.loaded.model.config, student.loaded.model.config, prompts)
    plain = p50_ms["student, transformers fp32"]
    shape = found["depth"] * found["width"] * found["vocabulary"]
    found["text length"] = p50_ms["teacher, transformers fp32"] / plain / shape
    if best not in p50_ms or "transformers" in best:
        return found
    exact = specs_of([export_of(student, scratch, best.split()[1], "fp32", run, len(sources))])[0]
    with served("exact", exact, threads) as system:
        system.answer(sources[0])
        seconds = []
        for source in sources:
            begun = time.perf_counter()
            system.answer(source)
            seconds.append(time.perf_counter() - begun)
    between = 1000 * statistics.median(seconds)
    return found | {"engine": plain / between, "precision": between / p50_ms[best]}
