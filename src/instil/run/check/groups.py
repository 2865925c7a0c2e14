"""The groups of checks, each from a case to the problems that rooms find in it. What is not at hand is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from instil.core.problems import Problem
from instil.data import preflight as data_checks
from instil.data.records import SPLIT_NAMES
from instil.models import preflight as model_checks
from instil.models import preflight_tokens as token_checks
from instil.models.loading import Reader
from instil.run.check import environment, named
from instil.run.check.case import Case
from instil.run.check.models import alignment, objective, teacher
from instil.run.check.resources import resources
from instil.run.stages.reading import require_same_rows
from instil.train import preflight as train_checks
from instil.train.config import LoopConfig

_READ = 50
"""Records that both models' tokenizers read."""


def models(case: Case) -> Iterator[Problem]:
    """Both can do it: they write text, know the prompt and when to stop, and see a whole example."""
    for role, reader in _readers(case):
        yield from model_checks.preflight(role, reader, case.recipe.prompt)
    yield from case.context
    if case.recipe.teacher.served:
        yield from named.server(case.recipe.teacher.served)
    yield from named.systems(case)
    # That they load is a finding of the case itself.
    named.assistants(case)
    _ = case.teacher, case.student, case.other_readers


def _readers(case: Case) -> list[tuple[str, Reader]]:
    found = (("teacher", case.teacher_reader), ("student", case.student_reader))
    return [(role, reader) for role, reader in found if reader is not None]


def vocabulary(case: Case) -> Iterator[Problem]:
    """Tokens: a row for each, targets that can be written, and the same ones for teacher and student."""
    named.tokens(case)
    train = case.split("train")
    targets = [record.targets[0] for record in train]
    for role, reader in _readers(case):
        yield from token_checks.one_vocabulary(role, reader, targets)
    theirs, own = case.teacher_reader, case.student_reader
    if theirs is not None:
        for title, other in case.other_readers:
            yield from token_checks.two_teachers(title, theirs, other)
    if theirs is None or own is None:
        return
    distil = case.recipe.distil
    if distil is not None and distil.wants_teacher:
        setting: Literal["features", "on_policy"] = "features" if distil.features else "on_policy"
        case.part("vocabulary", lambda: require_same_rows(setting, theirs, own.tokenizer, own.kind))
    labelled = distil is not None and distil.learns_from_labels and distil.tokens == "same"
    texts = [text for record in train for text in (record.source, record.targets[0])]
    found = token_checks.two_vocabularies(theirs, own, texts, labelled=labelled)
    yield from found
    if labelled and not any(problem.grade == "fail" for problem in found):
        read = case.examples(train[:_READ], theirs), case.examples(train[:_READ], own)
        yield from token_checks.two_readings(theirs.tokenizer, own.tokenizer, *read)


def data(case: Case) -> Iterator[Problem]:
    """The records: enough, different, whole, and such as a model should learn from."""
    named.outputs(case)
    if case.data is None:
        # Every place that is wrong, and not only the first.
        config = case.recipe.data
        several = sum(getattr(config, name) is not None for name in SPLIT_NAMES) > 1
        found = data_checks.preflight(config, case.base) if several else []
        yield from (problem for problem in found if problem not in case.broken["data"] and problem.grade == "fail")
        return
    section = case.recipe.evaluate
    examined = [data_checks.Examination(each.split, each.items, each.task) for each in (section, *section.also)]
    yield from data_checks.records_problems(*case.data, case.recipe.data, examined=examined)
    yield from data_checks.truncation(case.encoded[1])


def machine(case: Case) -> Iterator[Problem]:
    """This machine: versions, device, precision, trackers, the folder of runs."""
    yield from environment.versions()
    yield from environment.device()
    yield from environment.runs_folder(case.base / Path(case.recipe.runs_dir).expanduser())
    for name, loop in loops(case):
        yield from train_checks.loop(name, loop, case.encoded[0], len(case.split("train")))
        if architecture := _random(case, name):
            yield from train_checks.from_nothing(name, loop, architecture)


def _random(case: Case, name: str) -> str | None:
    """The architecture that the loop `name` trains from random weights; None for one that knows something."""
    teacher, student = case.recipe.teacher, case.recipe.student
    if name.startswith("teacher"):
        return teacher.model if teacher.scratch else None
    if student is None or student.scratch is None:
        return None
    return str(case.teacher_reader.config.get("model_type")) if case.teacher_reader else teacher.model


def loops(case: Case) -> list[tuple[str, LoopConfig]]:
    """The trainings of the recipe, by the section that each stands in."""
    recipe = case.recipe
    teach = [("teacher.teach.loop", recipe.teacher.teach.loop)] if recipe.teacher.teach else []
    return teach + ([("distil.loop", recipe.distil.loop)] if recipe.distil else [])


GROUPS: dict[str, Callable[[Case], Iterable[Problem]]] = {
    "environment": machine,
    "data": data,
    "models": models,
    "vocabulary": vocabulary,
    "teacher": teacher,
    "alignment": alignment,
    "objective": objective,
    "resources": resources,
}
"""All checks, in the order in which a person would want to hear of them."""
