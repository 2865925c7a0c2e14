"""Systems that a recipe holds beside teacher and students: files of outputs, servers, other models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instil.core.errors import DataError
from instil.core.fingerprint import fingerprint, hash_file
from instil.core.protocol import Generator
from instil.data.records import Record
from instil.evaluate.given import read_given
from instil.models.generation import TransformersGenerator
from instil.models.loading import load_model, locate, to_accelerator
from instil.models.remote import RemoteGenerator
from instil.models.served import Endpoint
from instil.run.recipe import Recipe
from instil.run.sections.evaluate import SystemConfig


def further_inputs(recipe: Recipe) -> dict[str, str]:
    """What each further system is, as far as that can be told: a file's or a model's hash, a server's address."""
    return {name: _mark(recipe, system) for name, system in recipe.evaluate.systems.items()}


def _mark(recipe: Recipe, system: SystemConfig) -> str:
    if system.outputs:
        path = Path(system.outputs).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: there is no such file of outputs; check the path")
        return hash_file(path)
    if system.model:
        return locate(system.model, revision=system.revision, accept_licences=recipe.accept_licences).fingerprint
    return fingerprint(system.endpoint.model_dump(mode="json") if system.endpoint else None)


def further_systems(recipe: Recipe, records: Sequence[Record]) -> dict[str, Generator]:
    """The further systems of the recipe, by name."""
    return {name: _generator(recipe, name, system, records) for name, system in recipe.evaluate.systems.items()}


def _generator(recipe: Recipe, name: str, system: SystemConfig, records: Sequence[Record]) -> Generator:
    if system.outputs:
        return read_given(Path(system.outputs).expanduser(), records, name=name)
    if system.endpoint:
        return RemoteGenerator(Endpoint(system.endpoint, f"evaluate.systems.{name}.endpoint"), recipe.prompt, name=name)
    loaded = load_model(str(system.model), revision=system.revision, accept_licences=recipe.accept_licences)
    return TransformersGenerator(
        to_accelerator(loaded.model), loaded.tokenizer, recipe.prompt, name=name, num_beams=recipe.evaluate.beams,
        max_source_tokens=recipe.limits.source,
    )  # fmt: skip
