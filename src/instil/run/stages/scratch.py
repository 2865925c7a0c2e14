"""Models with random weights, as a recipe describes them: a student like its teacher, a teacher of an architecture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from instil.core import console
from instil.data.records import Record
from instil.models.folders import UNKNOWN_LICENCE
from instil.models.layers import Side
from instil.models.loading import LoadedModel
from instil.models.students.new_tokenizer import make_tokenizer, train_tokenizer
from instil.models.students.scratch import ScratchReport, from_scratch, kind_of, pattern
from instil.run.sections.student import ScratchConfig
from instil.run.sections.teacher import TeacherScratchConfig
from instil.run.stages.data import Data


def scratch_teacher(section: TeacherScratchConfig, architecture: str, data: Data, seed: int) -> LoadedModel:
    """A teacher that knows nothing yet; the same data and `seed` give the same one."""
    kind = kind_of(architecture)
    train = data.splits["train"]
    tokenizer = make_tokenizer(_texts(train), section.tokenizer.train, kind)
    console.say(f"  a tokenizer of {len(tokenizer):,} tokens from {len(train):,} records")
    model, _ = _from_scratch(section, pattern(architecture, tokenizer), seed)
    return LoadedModel(model, tokenizer, architecture, "", UNKNOWN_LICENCE, kind)


def scratch_student(
    section: ScratchConfig, teacher: LoadedModel, train: Sequence[Record], seed: int
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """A student like its teacher, its tokenizer, and what is to be told of it."""
    tokenizer, both = teacher.tokenizer, None
    if section.tokenizer is not None:
        tokenizer = train_tokenizer(teacher.tokenizer, _texts(train), section.tokenizer.train)
        both = (teacher.tokenizer, tokenizer)
        console.say(f"  a tokenizer of {len(tokenizer):,} tokens from {len(train):,} records")
    student, report = _from_scratch(section, teacher.model, seed, both)
    return student, tokenizer, {"scratch": asdict(report) | {"tokens": len(tokenizer) if both else None}}


def _texts(records: Sequence[Record]) -> Iterator[str]:
    return (text for record in records for text in (record.source, *record.targets))


def _from_scratch(
    section: ScratchConfig, like: nn.Module, seed: int, tokenizers: tuple[Any, Any] | None = None
) -> tuple[nn.Module, ScratchReport]:
    layers: dict[Side, int | None] = {"encoder": section.encoder_layers, "decoder": section.layers}
    given = {side: count for side, count in layers.items() if count}
    model, report = from_scratch(like, given, section.widths(), seed=seed, tokenizers=tokenizers)
    each = ", ".join(f"{count} {side} layers" for side, count in report.layers.items())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.say(f"  {parameters:,} random weights; {each}, {report.sizes}")
    return model, report
