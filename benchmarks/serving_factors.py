"""Of what a student's speed is made: layers, their width, its vocabulary, the length of its texts, engine, precision.

The first three are timed on models of the teacher's architecture with random weights, each a step nearer to the
student's sizes, that read the same prompts and write the same number of tokens: speed goes by sizes alone. What is left
of the speed-up of real texts in transformers is that the student's are longer or shorter. All multiply to the whole.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from benchmarks.serving_parts import STUDENT, TEACHER, Places, export_of, in_turns, served, stage_of
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

    def write(name: str, prompt: Sequence[int]) -> None:
        model = models[name]
        model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=_WRITTEN, min_new_tokens=_WRITTEN,
            pad_token_id=model.config.pad_token_id or 0,
        )  # fmt: skip

    seconds = in_turns(list(models), write, prompts)
    return {
        after: statistics.median(a / b for a, b in zip(seconds[before], seconds[after], strict=True))
        for before, after in pairwise(models)
    }


def taken_apart(
    run: Path, scratch: Path, places: Places, best: str, sources: Sequence[str], threads: int | None
) -> dict[str, Any]:
    """How many times as fast as the teacher on transformers the student answers on `best`, text by text in turns with
    all that is between them; and by name the factors that multiply to it."""
    student, teacher = open_student(stage_of(run, "student")), open_student(scratch / "teacher")
    systems = {name: places[name] for name in (TEACHER, STUDENT)}
    if "transformers" not in best:
        exact = export_of(student, scratch, best.split()[1], "fp32", run, len(sources))
        systems |= {"exact": specs_of([exact])[0], "best": places[best]}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(served(name, spec, threads)) for name, spec in systems.items()}
        seconds = in_turns(list(servers), lambda name, source: servers[name].answer(source), sources)
    p50 = {name: statistics.median(each) for name, each in seconds.items()}
    last = list(systems)[-1]
    ratios = sorted(a / b for a, b in zip(seconds[TEACHER], seconds[last], strict=True))
    prompts = [student.read(source) for source in sources]
    found = of_sizes(teacher.loaded.model.config, student.loaded.model.config, prompts)
    found["text length"] = p50[TEACHER] / p50[STUDENT] / math.prod(found.values())
    if last == "best":
        found |= {"engine": p50[STUDENT] / p50["exact"], "precision": p50["exact"] / p50["best"]}
    tenth = len(ratios) // 10
    return {
        "speedup": p50[TEACHER] / p50[last], "range": [ratios[tenth], ratios[-1 - tenth]], "factors": found,
        "p50_ms": {name: 1000 * value for name, value in p50.items()},
    }  # fmt: skip
