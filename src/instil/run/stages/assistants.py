"""Assistants: each learns from the one above it, the first from the teacher, and the last teaches the student.

Teacher assistants bridge a gap in size that a student cannot follow across (Mirzadeh et al. 2019, arXiv 1902.03393). As
large as their teacher they are generations of it (born-again networks, Furlanello et al. 2018, arXiv 1805.04770).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from instil.run.recipe import Recipe
from instil.run.stage import Workshop
from instil.run.stages.data import Data
from instil.run.stages.distil import run_distil
from instil.run.stages.made_models import load_made
from instil.run.stages.others import run_labels
from instil.run.stages.student import run_student
from instil.run.stages.teach import Teacher


def legs_of(recipe: Recipe) -> list[Recipe]:
    """The recipe of each assistant: the whole one, with the assistant for its student."""
    found = []
    for number, section in enumerate(recipe.assistants):
        distil = recipe.distil
        if distil and section.loop:
            distil = distil.model_copy(update={"loop": section.loop})
        changes = {"student": section.student, "distil": distil, "assistants": recipe.assistants[:number]}
        found.append(recipe.model_copy(update=changes))
    return found


def run_assistants(shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher) -> Teacher:
    """Who teaches the student: the last assistant, or `teacher` where the recipe has none."""
    for number, leg in enumerate(legs_of(recipe), start=1):
        own = replace(shop, prefix=f"assistant-{number}-")
        labels = run_labels(own, leg, data, teacher)
        untrained = run_student(own, leg, data, teacher)
        learned = run_distil(own, leg, data, untrained, labels, teacher)
        teacher = Teacher(learned.fingerprint, partial(load_made, learned), teacher.licence, teacher.ref, learned)
    return teacher
