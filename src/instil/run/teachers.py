"""Candidate teachers on the user's own validation records: how well, how fast, and on which terms.

Losses are in bits a character of the gold target, since tokens of different tokenizers cannot be compared. Each
candidate's numbers are an artifact of its own, so a further candidate costs only itself.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from instil.core import console
from instil.core.errors import ConfigError, InstilError, ModelError
from instil.data.records import Record
from instil.evaluate.rouge import Rouge, tokenizer_for
from instil.evaluate.significance import mean_interval
from instil.labels.scores import mean_log_probs
from instil.labels.teacher import Teacher as LabellingTeacher
from instil.models.family import family_of
from instil.models.loading import load_reader, to_accelerator
from instil.run.licences import licence_of
from instil.run.pipeline import Pipeline
from instil.run.recipe import Recipe
from instil.run.sections.teacher import TeacherConfig
from instil.run.stage import Workshop
from instil.run.stages.data import Data
from instil.run.stages.tasks import records_of
from instil.run.stages.teach import Teacher, base_teacher, encode, generator_of

_BATCH = 16


def rank_teachers(recipe: Recipe, base: Path, *, items: int) -> list[dict[str, Any]]:
    """A row for each candidate of `recipe.teachers`, the best score first. One that cannot be loaded is said and left
    out. Raises `ConfigError` without candidates, `ModelError` where none can be loaded."""
    if not recipe.teachers:
        raise ConfigError("the recipe names no candidates; add teachers: [{model: ...}, {model: ...}]")
    pipeline = Pipeline(recipe, base)
    shop, data = pipeline.shop, pipeline.data
    records = records_of(data.splits["validation"], recipe.evaluate.task)[:items]
    if not records:
        raise ConfigError("there are no validation records to rank teachers on; set data.validation_share")
    found = []
    for candidate in recipe.teachers:
        try:
            found.append(_candidate(shop, recipe.model_copy(update={"teacher": candidate}), data, records))
        except InstilError as error:
            console.say(f"{candidate.title} is left out: {error}")
    if not found:
        raise ModelError("none of the teachers can be asked; see the lines above")
    return sorted(found, key=lambda row: -row["rougeL"]["value"])


def _candidate(shop: Workshop, recipe: Recipe, data: Data, records: Sequence[Record]) -> dict[str, Any]:
    teacher = base_teacher(recipe, data)

    def work(_: Path) -> Mapping[str, Any]:
        return _measured(recipe, teacher, records)

    artifact = shop.stage(
        "candidate",
        work,
        inputs={"teacher": teacher.fingerprint, "data": data.fingerprint},
        config={
            "items": len(records), "task": recipe.evaluate.task, "prompt": recipe.prompt.model_dump(mode="json"),
            "limits": recipe.limits.model_dump(mode="json"), "max_new_tokens": recipe.evaluate.max_new_tokens,
            "beams": recipe.evaluate.beams,
        },
    )  # fmt: skip
    return {
        "teacher": recipe.teacher.title,
        "section": recipe.teacher.model_dump(mode="json", exclude_defaults=True),
        **artifact.manifest.result,
        "overlap": _overlap(recipe, teacher),
        **_terms(recipe.teacher, teacher),
    }


def _measured(recipe: Recipe, teacher: Teacher, records: Sequence[Record]) -> dict[str, Any]:
    generator = generator_of(recipe, teacher, beams=recipe.evaluate.beams)
    started = time.monotonic()
    texts = generator.generate(
        [record.source for record in records], max_new_tokens=recipe.evaluate.max_new_tokens, batch_size=_BATCH
    )
    seconds = time.monotonic() - started
    rouge = Rouge(tokenizer=tokenizer_for(target for record in records for target in record.targets))
    scores = [rouge.score(text, record.targets).rougeL for text, record in zip(texts, records, strict=True)]
    return {
        "rougeL": mean_interval(scores, seed=recipe.seed).model_dump(),
        "n": len(records),
        "bits_per_character": None if teacher.endpoint else _bits(recipe, teacher, records),
        "per_second": len(records) / seconds,
    }


def _bits(recipe: Recipe, teacher: Teacher, records: Sequence[Record]) -> float:
    """Of the gold targets, mean over all characters that are not cut off."""
    examples, _ = encode(recipe, teacher.loaded, records, "validation")
    model = to_accelerator(teacher.loaded.model)
    labeller = LabellingTeacher(model=model, family=family_of(model), batch_tokens=recipe.labels.batch_tokens)
    log_probs = mean_log_probs(labeller, examples)
    nats = -sum(each * len(example.target_ids) for each, example in zip(log_probs, examples, strict=True))
    read = (teacher.loaded.tokenizer.decode(example.target_ids, skip_special_tokens=True) for example in examples)
    return nats / math.log(2) / max(1, sum(len(text.strip()) for text in read))


def _overlap(recipe: Recipe, teacher: Teacher) -> float:
    """The share of the student's tokens that the teacher has too; a student that is cut out of its teacher has all."""
    student = recipe.student
    if student is None or student.model is None:
        return 1.0
    reader = load_reader(student.model, revision=student.revision, accept_licences=recipe.accept_licences)
    own, theirs = reader.tokenizer.get_vocab(), _vocabulary(recipe, teacher)
    return sum(token in theirs for token in own) / len(own)


def _vocabulary(recipe: Recipe, teacher: Teacher) -> Mapping[str, int]:
    if teacher.reader:
        return teacher.reader.tokenizer.get_vocab()
    section = recipe.teacher
    reader = load_reader(section.model, revision=section.revision, accept_licences=recipe.accept_licences)
    return reader.tokenizer.get_vocab()


def _terms(section: TeacherConfig, teacher: Teacher) -> dict[str, str]:
    host = urlparse(section.served.url).hostname if section.served else None
    licence = licence_of(teacher.licence) if not host or _is_private(host) else licence_of(f"api:{host}")
    known = asdict(licence)
    return {"access": "API" if host else "weights", "licence": known.pop("name"), **known}


def _is_private(host: str) -> bool:
    """Whether it is a server of one's own, which adds no terms to the licence of the weights."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal"))
