"""What a recipe names for its late stages, looked at before the first: systems to compare with, an embedder, stores."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from instil.core.errors import ModelError
from instil.core.problems import Problem, fail, info, problem_of
from instil.evaluate.metrics.embedding import Embedder
from instil.labels.store import read_store_manifest
from instil.models import folders
from instil.models import preflight as model_checks
from instil.models.config import ServedConfig
from instil.models.served import Endpoint
from instil.run.check.case import Case
from instil.run.sections.evaluate import SystemConfig
from instil.run.stages.further import given_outputs, outputs_file
from instil.run.stages.label import STORE_NAME, stage_of_store, wants_rows
from instil.run.stages.others import other_store
from instil.run.stages.tokens import check_size

_RETRIES, _SECONDS = 1, 15.0
"""How patiently a server is asked whether it is there."""


def outputs(case: Case) -> None:
    """Files of outputs are there, and have a line for each record that is examined."""
    section = case.recipe.evaluate
    held_out = [record for record in case.split(section.split) if record.task == section.task]
    for name, system in section.systems.items():
        if system.outputs and held_out:
            case.part("data", partial(given_outputs, name, system.outputs, held_out[: section.items]))
        elif system.outputs:
            case.part("data", partial(outputs_file, system.outputs))


def systems(case: Case) -> Iterator[Problem]:
    """Models and servers to compare with can be had, and so can the embedder that metrics read with."""
    for name, system in case.recipe.evaluate.systems.items():
        if system.model:
            yield from _model(case, f"system {name}", system)
        if system.endpoint:
            yield from server(system.endpoint, f"evaluate.systems.{name}.endpoint")
    section = case.recipe.evaluate
    if section.embedder and any("embedding_similarity" in each.metrics for each in (section, *section.also)):
        case.part("models", partial(_embed, section.embedder, quick=case.quick))


def _model(case: Case, role: str, system: SystemConfig) -> list[Problem]:
    reader = case.reader(str(system.model), system.revision)
    if reader is None:
        return []
    if (folder := Path(str(system.model)).expanduser()).is_dir():
        case.part("models", partial(folders.weight_files, folder, str(system.model)))
    found = model_checks.template(role, reader.tokenizer, case.recipe.prompt)
    return [problem for problem in found if problem.grade == "fail"]


def _embed(folder: str, *, quick: bool) -> None:
    embedder = Embedder(folder)
    if not quick:
        embedder.embed(["a text"])


def server(config: ServedConfig, place: str = "teacher.served") -> Iterator[Problem]:
    """The server of `config`, which the recipe has at `place`, answers, and says which models it has."""
    hurried = {"retries": min(config.retries, _RETRIES), "timeout_s": min(config.timeout_s, _SECONDS)}
    endpoint = Endpoint(config.model_copy(update=hurried), place)
    try:
        yield info("server", f"the server has {', '.join(endpoint.listed)}", where=place)
        _ = endpoint.model
    except ModelError as error:
        found = problem_of(error)
        yield fail("server-unreachable", found.what, found.remedy)


def assistants(case: Case) -> None:
    """Assistants with a model of their own have one that writes text; that the others can be made is seen with them."""
    for section in (each.student for each in case.recipe.assistants):
        if section.model:
            case.reader(section.model, section.revision)
    _ = case.instructor


def tokens(case: Case) -> None:
    """The student's vocabulary holds what its targets need, so far as they are there yet."""
    section, reader = case.recipe.student, case.student_reader or case.teacher_reader
    if section is None or section.vocabulary is None or reader is None or not case.split("train"):
        return
    base = case.student if section.model else case.teacher
    if base is None or (section.scratch and section.scratch.tokenizer):
        return
    model, tokenizer = base.model, base.tokenizer
    case.part("vocabulary", lambda: check_size(case.recipe, case.split("train"), model, tokenizer, reader.kind))


def stores(case: Case) -> None:
    """Stores of labels that the recipe names are there and have a manifest."""
    recipe = case.recipe
    if recipe.labels.store:
        own = recipe.labels.store
        case.part("alignment", lambda: read_store_manifest(stage_of_store(own) / STORE_NAME))
    if not (recipe.labels.store or wants_rows(recipe)):
        return
    for store in (other.store for other in recipe.labels.others if other.store):
        case.part("alignment", lambda store=store: read_store_manifest(other_store(store)))  # type: ignore[misc]
