"""Checks that need models in memory: the teacher against its student, the alignment canary, the size of the losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from instil.core.problems import Problem, info
from instil.data.records import Record
from instil.data.tokens import Encoded
from instil.evaluate.baselines import FirstWords
from instil.evaluate.preflight import Sample, record_losses, teacher_problems
from instil.evaluate.rouge import Rouge, tokenizer_for
from instil.labels import preflight as label_checks
from instil.labels.completions import read_completions
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.models.loading import LoadedModel, to_accelerator
from instil.run.check import named
from instil.run.check.case import Case
from instil.run.check.step import Untrained, logits_of
from instil.run.stages.label import completions_file
from instil.train import preflight as train_checks

_BATCH = 16


def teacher(case: Case) -> Iterator[Problem]:
    """The teacher is worth learning from."""
    recipe = case.recipe
    if recipe.teacher.teach:
        what = "the teacher is untaught yet; the recipe teaches it first, so it is not held against its student"
        yield info("teacher-untaught", what, "check again what `instil teach` made, with teacher.model set to it")
        return
    if recipe.teacher.served:
        yield info("teacher-served", "the teacher is behind a server and is not asked here, since that may cost money")
        return
    records = (case.split("validation") or case.split(recipe.evaluate.split))[: case.sample]
    examples = case.examples(records)
    if case.teacher is None or not examples or case.context:
        return
    student = case.student if recipe.student and not recipe.student.scratch else None
    rouge = Rouge(tokenizer=tokenizer_for(text for record in records for text in record.targets))
    # The teacher's tokens are the unit of both losses, also for a student that cuts texts otherwise.
    counts = [len(example.target_ids) for example in examples]
    best = _sample(case, case.teacher, records, examples, counts, rouge)
    theirs = None
    if student is not None:
        read = case.examples(records, case.student_reader)
        theirs = _sample(case, student, records, read, counts, rouge)
    first = FirstWords.of_train(case.split("train"))
    lead = [rouge.score(first.output(record.source), record.targets).rougeL for record in records]
    yield from teacher_problems(best, theirs, first_words=lead)


def _sample(
    case: Case, system: LoadedModel | Untrained, records: Sequence[Record], examples: Sequence[Encoded],
    counts: Sequence[int], rouge: Rouge,
) -> Sample:  # fmt: skip
    recipe = case.recipe
    generator = TransformersGenerator(
        to_accelerator(system.model), system.tokenizer, recipe.prompt, name="sample",
        max_source_tokens=recipe.limits.source,
    )  # fmt: skip
    sources = [record.source for record in records]
    texts = generator.generate(sources, max_new_tokens=recipe.evaluate.max_new_tokens, batch_size=_BATCH)
    scores = (rouge.score(text, record.targets).rougeL for text, record in zip(texts, records, strict=True))
    losses = record_losses(system.model, family_of(system.model), examples)
    each = (loss / count for loss, count in zip(losses, counts, strict=True))
    return Sample(losses=tuple(each), rouges=tuple(scores), texts=tuple(texts))


def alignment(case: Case) -> Iterator[Problem]:
    """One batch through both models: rows, targets and labels point at the same tokens."""
    named.stores(case)
    if (completions := case.recipe.labels.completions) is not None:
        case.part("alignment", lambda: read_completions(completions_file(completions)))
    if case.teacher is None or not case.canaries or case.context:
        return
    model, examples = case.teacher.model, case.canaries
    yield from _placed("teacher", model, examples)
    if case.student is not None:
        yield from _placed("student", case.student.model, case.student_canaries)
    if case.recipe.teacher.teach:
        return
    logits_NV = logits_of(model, examples)
    target_N = torch.tensor([token for example in examples for token in example.target_ids])
    if case.labels and case.labels.store and not case.recipe.labels.others:
        yield from label_checks.stored_apart(*case.labels.store.read(examples), logits_NV)
    yield from label_checks.says_nothing(logits_NV, target_N)


def _placed(role: str, model: Any, examples: Sequence[Encoded]) -> list[Problem]:
    family = family_of(model)
    return label_checks.rows_misplaced(role, family.collate(examples), examples, getattr(family, "start_id", None))


def objective(case: Case) -> Iterator[Problem]:
    """The loss: sane weights, parts that pull alike, labels that the student is near to."""
    recipe, section = case.recipe, case.recipe.distil
    if section is None:
        return
    own_texts = recipe.labels.targets == "teacher" or recipe.labels.completions is not None
    own_past = section.self_teacher is not None and section.on_policy is None
    yield from train_checks.weights(
        section.alpha, section.temperature, own_texts=own_texts, own_past=own_past,
        asked=bool(section.features or section.on_policy),
    )  # fmt: skip
    heard = section.learns_from_labels or section.on_policy is not None
    yield from train_checks.others(len(recipe.labels.others), heard=heard)
    found = case.step
    if found is None:
        return
    yield from train_checks.loss_scale(found.canary.norms)
    scratch = bool(recipe.student and recipe.student.scratch)
    yield from train_checks.learnable(found.canary, from_scratch=scratch)
