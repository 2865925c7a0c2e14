"""Memory, disk and time: measured on the canary's step where a student is at hand, else the planner's figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from instil.core.errors import ModelError
from instil.core.problems import Problem
from instil.models.loading import count_bytes, count_parameters
from instil.plan import preflight as figures
from instil.plan.configs import shape_of_config
from instil.plan.shape import Shape, parameters
from instil.run.check import environment
from instil.run.check.case import Case
from instil.run.check.step import Step
from instil.run.measure import whole_steps
from instil.run.sections.distil import DistilConfig
from instil.train.config import LoopConfig

_FULL = 0.85
"""Of a micro-batch's tokens that are no padding."""
_STATES = 16
"""Bytes of a trained weight: itself, its gradient and two states of Adam, in fp32."""
_WEIGHT, _CHECKPOINT = 4, 12


def resources(case: Case) -> Iterator[Problem]:
    """What distilling takes, and whether it is there."""
    section = case.recipe.distil
    examples, _ = case.encoded
    if section is None or not examples:
        return
    count = len(case.split("train")[: case.recipe.labels.records])
    rows = count * sum(len(example.target_ids) for example in examples) / len(examples)
    tokens = count * sum(example.length for example in examples) / len(examples)
    step = case.step
    if step is not None and case.student is not None:
        weights = count_parameters(case.student.model)
        yield from _memory_measured(case, section, step)
        yield from _time(case, section, step, tokens)
    elif (shape := _shape(case)) is not None:
        weights = parameters(shape)
        yield from _memory_figured(case, section, shape, rows / max(tokens, 1))
    else:
        return
    yield from _disk(case, weights, rows)


def _memory_measured(case: Case, section: DistilConfig, step: Step) -> Iterator[Problem]:
    if step.peak is None or case.student is None:
        return
    weights = count_parameters(case.student.model)
    kept = max(0.0, step.peak - _WEIGHT * weights) / step.tokens
    beside = count_bytes(case.teacher.model) if case.teacher and section.features else 0
    needed = _STATES * weights + kept * section.loop.batch_tokens + beside
    loaded = [each.model for each in (case.teacher, case.student) if each is not None]
    there = environment.free_memory() + sum(map(count_bytes, loaded))
    source = f"measured on {step.tokens:,} tokens"
    yield from figures.memory("distilling", needed, there, source=source)


def _memory_figured(case: Case, section: DistilConfig, shape: Shape, rows: float) -> Iterator[Problem]:
    import torch

    tokens = section.loop.batch_tokens
    needed = figures.training_bytes(
        shape, tokens=tokens, rows=tokens * rows, trainable=parameters(shape), on_cpu=not torch.cuda.is_available()
    )
    yield from figures.memory("distilling", needed, environment.free_memory(), source="by the planner's figures")


def _shape(case: Case) -> Shape | None:
    """The student's shape by its config, or by its teacher's; None for an architecture without figures."""
    reader, section = case.student_reader or case.teacher_reader, case.recipe.student
    if reader is None or section is None:
        return None
    try:
        shape = shape_of_config("student", reader.config)
    except ModelError:
        return None
    asked = section.scratch or section
    layers = asked.layers or (len(section.keep) if section.keep else shape.layers)
    return replace(shape, layers=layers, encoder_layers=asked.encoder_layers or shape.encoder_layers)


def _time(case: Case, section: DistilConfig, step: Step, tokens: float) -> Iterator[Problem]:
    """Of the trainings, and how much of the data they read."""
    a_token = step.canary.seconds / step.tokens
    own = _seconds(section.loop, a_token, tokens)
    total = own * (2 if section.without_teacher else 1)
    if (teach := case.recipe.teacher.teach) is not None and case.teacher and case.student:
        larger = count_parameters(case.teacher.model) / count_parameters(case.student.model)
        total += _seconds(teach.loop, a_token * larger, tokens)
    source = f"a pass of {step.tokens:,} tokens took {step.canary.seconds:.2g} s"
    yield from figures.duration("training", total, source=source)
    yield from figures.passes(str(section.loop.budget), own / a_token, tokens)


def _seconds(loop: LoopConfig, a_token: float, tokens: float) -> float:
    """Of a loop, with so many seconds for a token, and so many tokens of all data."""
    of_step = loop.batch_tokens * loop.accumulation * _FULL
    return whole_steps(loop.budget, a_token * of_step, of_step, tokens) * a_token * of_step


def _disk(case: Case, weights: float, rows: float) -> Iterator[Problem]:
    """The student untrained and trained, with a checkpoint; the taught teacher; the labels."""
    recipe = case.recipe
    students = 3 if recipe.distil and recipe.distil.without_teacher else 2
    needed = weights * (students * _WEIGHT + _CHECKPOINT)
    if recipe.teacher.teach and not recipe.teacher.teach.adapt.by_adapter and case.teacher:
        needed += count_parameters(case.teacher.model) * (_WEIGHT + _CHECKPOINT)
    if recipe.distil and recipe.distil.learns_from_labels:
        stores = len(recipe.labels.other_teachers) + (recipe.labels.store is None)
        needed += stores * rows * figures.LABEL_BYTES * len(recipe.labels.temperatures)
    place = case.base / Path(recipe.runs_dir).expanduser()
    yield from figures.disk(needed, environment.free_disk(place), str(environment.existing(place)))
