"""From what a user types to models that can be served: a run, a stage's folder, an export, a file, a hub id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from instil.core.config import parse
from instil.core.errors import ConfigError, InstilError, ModelError
from instil.data.prompts import Prompt
from instil.data.records import MAIN_TASK, Record
from instil.export.sheet import SHEET_NAME, read_sheet
from instil.models.loading import GGUF_SUFFIX
from instil.serve.config import ModelSpec

SUMMARY_NAME = "summary.json"
_RECIPE_NAME, _MANIFEST_NAME, _MODEL_NAME, _ADAPTER_NAME = "recipe.yaml", "manifest.json", "model", "adapter"
_STUDENTS = ("student", "student_without_teacher")


def specs_of(refs: Sequence[str]) -> tuple[ModelSpec, ...]:
    """The models that `refs` name, each written as MODEL or NAME=MODEL; a run gives its student and its teacher.

    Raises `ConfigError` or `ModelError` for what is no model.
    """
    return tuple(spec for ref in refs for spec in _specs(ref))


def split_name(typed: str) -> tuple[str, str]:
    """The name, empty where none is given, and the model of MODEL or NAME=MODEL; a name has no slash."""
    name, equals, ref = typed.partition("=")
    return (name, ref) if equals and "/" not in name else ("", typed)


def teacher_ref(stage: Path) -> str:
    """The model that the recipe of a stage names as its teacher."""
    return str((_recipe(stage).get("teacher") or {}).get("model", ""))


def is_run(ref: str) -> bool:
    """Whether `ref` is the folder of a whole run."""
    return (Path(ref).expanduser() / SUMMARY_NAME).is_file()


def asked_records(data: Path) -> list[Record]:
    """The test records of the stage `data` as people ask them of its student: the main task's, without the prefix,
    which the student's prompt has. Raises `StorageError` for a file that is damaged or gone."""
    from instil.run.stages.data import read_records

    prefix = (_recipe(data).get("data") or {}).get("prefix") or ""
    main = [record for record in read_records(data / "test.jsonl") if record.task == MAIN_TASK]
    return [replace(record, source=record.source.removeprefix(prefix)) for record in main]


def _specs(typed: str) -> list[ModelSpec]:
    name, ref = split_name(typed)
    folder = Path(ref).expanduser()
    if is_run(ref):
        return _of_run(folder, name or folder.resolve().name)
    if (folder / _MANIFEST_NAME).is_file():
        return [_of_stage(folder, name or folder.resolve().name)]
    if (folder / SHEET_NAME).is_file():
        return [_of_export(folder, folder, name)]
    if folder.suffix == GGUF_SUFFIX and _is_gguf_export(folder.parent):
        return [_of_export(folder.parent, folder, name)]
    if folder.is_dir() and (folder.parent / _RECIPE_NAME).is_file():
        return [_of_stage(folder.parent, name or folder.resolve().parent.name)]
    return [ModelSpec(name=name or _plain_name(folder, ref), ref=ref)]


def _plain_name(place: Path, ref: str) -> str:
    """A folder's or file's own name; all of a hub id."""
    if place.is_dir():
        return place.resolve().name
    return place.stem if place.exists() else ref


def _is_gguf_export(folder: Path) -> bool:
    return (folder / SHEET_NAME).is_file() and read_sheet(folder).format == "gguf"


def _of_run(folder: Path, name: str) -> list[ModelSpec]:
    """Its student, and its teacher if that is a model in memory."""
    stages: Mapping[str, str] = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf8")).get("stages", {})
    found = [_of_stage(folder / stages[role], f"{name}-{role}") for role in _STUDENTS[:1] if role in stages]
    place = next((folder / stages[stage] for stage in ("student", "evaluation", "data") if stage in stages), None)
    if place is None:
        raise ModelError(f"{folder}: a run without stages; finish it with instil run")
    teach = [folder / stages["teach"]] if "teach" in stages else []
    return [*found, *_teacher(place, f"{name}-teacher", teach)]


def _teacher(stage: Path, name: str, taught: Sequence[Path]) -> list[ModelSpec]:
    recipe = _recipe(stage)
    section = recipe.get("teacher") or {}
    if section.get("served"):
        return []
    known = _known(recipe, stage)
    for place in taught:
        if (place / _MODEL_NAME).is_dir():
            return [ModelSpec(name=name, ref=str(place / _MODEL_NAME), **known)]
        return [ModelSpec(name=name, ref=section["model"], adapter=place / _ADAPTER_NAME, **known)]
    adapter = section.get("adapter")
    if adapter:
        from instil.run.stages.teach import shipped

        adapter = shipped(adapter, "models")
    return [ModelSpec(name=name, ref=section["model"], adapter=adapter, **known)]


def _of_stage(folder: Path, name: str) -> ModelSpec:
    place = folder / _MODEL_NAME
    if not place.is_dir():
        raise ModelError(f"{folder}: a stage without a model; give the folder of stage distil, or of the whole run")
    return ModelSpec(name=name, ref=str(place), **_known(_recipe(folder), folder))


def _of_export(folder: Path, place: Path, name: str) -> ModelSpec:
    """The export in `folder`, or one file of it (`place`), under the folder's name unless it has another."""
    sheet = read_sheet(folder)
    most: dict[str, Any] = {} if sheet.target_limit is None else {"max_new_tokens": sheet.target_limit}
    return ModelSpec(
        name=name or folder.resolve().name, ref=str(place), prompt=sheet.prompt, max_source_tokens=sheet.source_limit,
        **most,
    )  # fmt: skip


def _recipe(folder: Path) -> Mapping[str, Any]:
    path = folder / _RECIPE_NAME
    try:
        found = yaml.safe_load(path.read_text(encoding="utf8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read; give the folder that the stage wrote") from error
    return found if isinstance(found, dict) else {}


def _known(settings: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """Prompt and limits."""
    limits = settings.get("limits") or {}
    try:
        prompt = parse(Prompt, settings.get("prompt") or {}, name=str(place))
        prompt = prompt.before((settings.get("data") or {}).get("prefix") or "")
    except InstilError as error:
        raise ConfigError(f"{place}: {error}") from error
    most = {"max_new_tokens": limits["target"]} if limits.get("target") else {}
    return {"prompt": prompt, "max_source_tokens": limits.get("source"), **most}
