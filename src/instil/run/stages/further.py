"""Systems that a recipe holds beside teacher and students: files of outputs, servers, other models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instil.core.errors import DataError
from instil.core.fingerprint import fingerprint, hash_file
from instil.core.protocol import Generator
from instil.data.records import Record
from instil.evaluate.given import GivenOutputs, read_given
from instil.models.generation import TransformersGenerator
from instil.models.loading import load_model, load_reader, locate, to_accelerator
from instil.models.remote import RemoteGenerator
from instil.models.served import Endpoint
from instil.run.recipe import Recipe
from instil.run.sections.evaluate import SystemConfig


def further_inputs(recipe: Recipe) -> dict[str, str]:
    """What each further system is, as far as that can be told: a file's or a model's hash, a server's address."""
    return {name: _mark(recipe, system) for name, system in recipe.evaluate.systems.items()}


def _mark(recipe: Recipe, system: SystemConfig) -> str:
    if system.outputs:
        return hash_file(outputs_file(system.outputs))
    if system.model:
        return locate(system.model, revision=system.revision, accept_licences=recipe.accept_licences).fingerprint
    return fingerprint(system.endpoint.model_dump(mode="json") if system.endpoint else None)


def outputs_file(outputs: str) -> Path:
    """The file of a system's outputs. Raises `DataError` where there is none."""
    path = Path(outputs).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file of outputs; check the path")
    return path


def given_outputs(name: str, outputs: str, records: Sequence[Record]) -> GivenOutputs:
    """The system of a file of outputs. Raises `DataError` where one of `records` lacks its own."""
    return read_given(outputs_file(outputs), records, name=name)


def check_further(recipe: Recipe) -> None:
    """Raises where a file or a model of a further system is not there, or cannot write text."""
    for system in recipe.evaluate.systems.values():
        if system.outputs:
            outputs_file(system.outputs)
        if system.model:
            load_reader(system.model, revision=system.revision, accept_licences=recipe.accept_licences)


def check_outputs(recipe: Recipe, records: Sequence[Record]) -> None:
    """Raises `DataError` where a file of outputs lacks one of the `records` that are examined."""
    for name, system in recipe.evaluate.systems.items():
        if system.outputs:
            given_outputs(name, system.outputs, records)


def further_systems(recipe: Recipe, records: Sequence[Record]) -> dict[str, Generator]:
    """The further systems of the recipe, by name."""
    return {name: _generator(recipe, name, system, records) for name, system in recipe.evaluate.systems.items()}


def _generator(recipe: Recipe, name: str, system: SystemConfig, records: Sequence[Record]) -> Generator:
    if system.outputs:
        return given_outputs(name, system.outputs, records)
    if system.endpoint:
        return RemoteGenerator(Endpoint(system.endpoint, f"evaluate.systems.{name}.endpoint"), recipe.prompt, name=name)
    loaded = load_model(str(system.model), revision=system.revision, accept_licences=recipe.accept_licences)
    return TransformersGenerator(
        to_accelerator(loaded.model), loaded.tokenizer, recipe.prompt, name=name, num_beams=recipe.evaluate.beams,
        max_source_tokens=recipe.limits.source,
    )  # fmt: skip
