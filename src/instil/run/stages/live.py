"""Who scores rows while the student learns: the teacher, for texts of the student's own, or the student's own past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from instil.core import console
from instil.data.tokens import Encoded
from instil.labels.served import ServedTeacher
from instil.labels.teacher import Teacher as LabellingTeacher
from instil.models.generation import TransformersGenerator
from instil.objectives.fused import RowLabels
from instil.objectives.sparse import SparseLabels
from instil.run.recipe import Recipe
from instil.run.sections.distil import DistilConfig, OnPolicyConfig, SelfTeacherConfig
from instil.run.stages.label import SERVED_HEAD, labeller_in_memory, labeller_of
from instil.run.stages.reading import require_same_rows
from instil.run.stages.teach import Teacher
from instil.train.live import Average, LiveTask, Mixture, OnPolicy, Scorer, dense_labels
from instil.train.task import RowLoss, TextTask

LIVE_VERSION = 2
"""Raised when a change of the code changes what live labels teach, so that such students are not reused."""


def live_task(
    recipe: Recipe, section: DistilConfig, task: TextTask, tokenizer: Any, teacher: Teacher | None,
    others: Sequence[Teacher] = (),
) -> TextTask:  # fmt: skip
    """`task` and all that it was told, with live labels where `section` wants some, of `teacher` and the `others` that
    the recipe names; the student writes by its `tokenizer`."""
    if section.on_policy is None and section.self_teacher is None:
        return task
    module = task.module
    score = (
        _own_past(module, section.self_teacher)
        if section.self_teacher
        else _scored_by(recipe, _required(teacher), others, task, tokenizer)
    )
    told = {each.name: getattr(task, each.name) for each in fields(TextTask)}
    return LiveTask(
        **told, score=score,
        own=_own_texts(recipe, section.on_policy, module, tokenizer) if section.on_policy else None,
        own_alone=section.self_teacher is None,
    )  # fmt: skip


def _required(teacher: Teacher | None) -> Teacher:
    assert teacher is not None, "a recipe whose student writes has a teacher"
    return teacher


def _own_past(module: RowLoss, section: SelfTeacherConfig) -> Scorer:
    module.average = Average(module.model, module.family, ema=section.ema, every=section.every)
    console.say(f"  learns from its own past: of the average, {section.ema:g} stays in {section.every} steps")
    return module.average.score


def _scored_by(recipe: Recipe, teacher: Teacher, others: Sequence[Teacher], task: TextTask, tokenizer: Any) -> Scorer:
    """What `teacher`, or the mixture of it with `others`, says of rows that the student writes, who must read and write
    as it does."""
    require_same_rows("on_policy", teacher.reads, tokenizer, task.module.family.kind)
    labeller = labeller_of(recipe, teacher)
    if isinstance(labeller, LabellingTeacher) and others:
        return _mixture(recipe, [labeller, *(labeller_in_memory(recipe, each) for each in others)], task).score

    def score(examples: Sequence[Encoded]) -> RowLabels:
        if isinstance(labeller, ServedTeacher):
            ids_NK, probs_NK = labeller.score(examples, recipe.labels.head or SERVED_HEAD)
            return SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK)
        return dense_labels(labeller.rows(examples))

    return score


def _mixture(recipe: Recipe, teachers: Sequence[LabellingTeacher], task: TextTask) -> Mixture:
    section = recipe.labels
    by_loss = section.trust == "by-loss"
    console.say(f"  {len(teachers)} teachers in memory read what the student writes, weighed {section.trust}")
    return Mixture(
        teachers=teachers, weights={name: section.shares(name) for name in recipe.data.tasks},
        given={each.id: each for each in task.examples} if by_loss else None,
    )  # fmt: skip


def _own_texts(recipe: Recipe, section: OnPolicyConfig, module: RowLoss, tokenizer: Any) -> OnPolicy:
    writer = TransformersGenerator(
        module.model, tokenizer, recipe.prompt, name="student", max_source_tokens=recipe.limits.source
    )
    longest = section.max_new_tokens or recipe.limits.target

    def draw(prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        return writer.draw(prompts, max_new_tokens=longest, sample=section.sample, seed=seed)

    console.say(f"  writes {section.share} of its batches itself, up to {longest} tokens a text")
    return OnPolicy(share=section.share, draw=draw, longest=longest, seed=recipe.seed_of_student)
