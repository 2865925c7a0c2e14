"""Stage `label`: what the teacher knows about the train split, written down once; no student needs the teacher then."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from instil.core import console, publish
from instil.core.errors import ConfigError, LabelError
from instil.core.fingerprint import fingerprint, hash_file
from instil.core.manifest import read_manifest
from instil.data.records import Record
from instil.labels.codec import Codec
from instil.labels.store import MANIFEST_NAME, LabelStore, damage_of, read_store_manifest
from instil.labels.writer import Part, vocabulary_of, write_labels
from instil.labels.writer import Teacher as LabellingTeacher
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.run.recipe import Recipe
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.teach import Teacher, encode, shipped

STORE_NAME = "store"
TARGETS_NAME = "targets.jsonl"
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Labels:
    """An open store, the records that it labels (with the targets that were labelled), and its fingerprint."""

    store: LabelStore
    records: list[Record]
    fingerprint: str
    artifact: Artifact | None


def run_labels(shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher) -> Labels:
    """The labels of the recipe: a store made before, or made here by the teacher."""
    section = recipe.labels
    artifact = None if section.store else write_part(shop, recipe, data, teacher, None)
    folder = artifact.folder if artifact else shipped(str(section.store), "labels")
    temperature = recipe.distil.temperature if recipe.distil and recipe.distil.alpha else section.temperatures[0]
    store = LabelStore(
        folder / STORE_NAME, expect=_made_from(recipe, teacher), temperature=temperature,
        drawn=recipe.distil is None or recipe.distil.divergence == "forward_kl",
    )  # fmt: skip
    records = [record for record in _labelled_records(folder, data.splits["train"]) if record.id in store]
    return Labels(store, records, fingerprint(store.manifest), artifact)


def write_part(shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher, part: Part | None) -> Artifact:
    """The finished store of the recipe's labels; of `part` of them, where several machines label together."""
    made_from = _made_from(recipe, teacher)
    config = recipe.labels.model_dump(mode="json", exclude={"store", "batch_tokens"})
    return shop.stage(
        "label",
        lambda folder: _label(recipe, data, teacher, made_from, folder, part, _siblings(shop)),
        inputs={**made_from, "data": data.fingerprint},
        config=config | ({"part": str(part)} if part else {}),
        label=f"label-part-{part.number}-of-{part.of}" if part else "",
        damage=_damage,
    )


def _made_from(recipe: Recipe, teacher: Teacher) -> dict[str, str]:
    return {"teacher": teacher.fingerprint, "prompt": fingerprint(recipe.prompt, recipe.limits)}


def _siblings(shop: Workshop) -> list[Path]:
    """Stores of earlier runs of this recipe, perhaps of fewer records: what they have in common is not made again."""
    return sorted(path / STORE_NAME for path in shop.root.glob("label-*") if path.suffix != ".part")


def _damage(folder: Path) -> str:
    """What is not as it was written. Damaged targets are removed, since nobody can tell which of them are right."""
    manifest = read_manifest(folder)
    if manifest and TARGETS_NAME in manifest.result and _hash(folder / TARGETS_NAME) != manifest.result[TARGETS_NAME]:
        (folder / TARGETS_NAME).unlink(missing_ok=True)
        return f"{TARGETS_NAME} is damaged"
    try:
        shards = read_store_manifest(folder / STORE_NAME).shards
    except LabelError:
        return f"{STORE_NAME}/{MANIFEST_NAME} is damaged"
    broken = [entry.file for entry in shards if damage_of(folder / STORE_NAME, entry)]
    return f"{', '.join(broken)} damaged or missing" if broken else ""


def _hash(path: Path) -> str:
    return hash_file(path) if path.is_file() else ""


def _labelled_records(folder: Path, train: Sequence[Record]) -> list[Record]:
    """The training records, with the teacher's own outputs for targets where the store was made on those."""
    path = folder / TARGETS_NAME
    if not path.is_file():
        return list(train)
    written = _read_targets(path)
    return [replace(record, targets=(written[record.id],)) for record in train if record.id in written]


def _read_targets(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf8").splitlines() if path.is_file() else []
    return {row["id"]: row["target"] for row in map(json.loads, lines)}


def _label(
    recipe: Recipe, data: Data, teacher: Teacher, made_from: Mapping[str, str], folder: Path, part: Part | None,
    siblings: Sequence[Path],
) -> Mapping[str, Any]:  # fmt: skip
    section, loaded = recipe.labels, teacher.loaded
    if part and section.targets == "teacher":
        raise ConfigError(
            f"part is {part} and labels.targets is teacher; its outputs are written in one piece: leave --part out"
        )
    records = data.splits["train"][: section.records]
    if section.targets == "teacher":
        written = _write_targets(recipe, teacher, records, folder / TARGETS_NAME)
        records = [replace(record, targets=(written[record.id],)) for record in records if written.get(record.id)]
    examples, _ = encode(recipe, loaded, records, "labels")
    labeller = LabellingTeacher(model=loaded.model, family=family_of(loaded.model), batch_tokens=section.batch_tokens)
    vocabulary = vocabulary_of(labeller)
    codec = (
        Codec.top(section.head, vocabulary, section.temperatures)
        if section.head
        else Codec.of(section.detail, vocabulary, section.temperatures)
    )
    with console.progress("label", len(examples), "examples") as advance:
        manifest = write_labels(
            labeller, examples, folder / STORE_NAME, codec=codec, made_from=made_from, part=part, reuse=siblings,
            advance=advance,
        )  # fmt: skip
    result: dict[str, Any] = dict(manifest.measured)
    if section.targets == "teacher":
        result[TARGETS_NAME] = hash_file(folder / TARGETS_NAME)
    return result


def _write_targets(recipe: Recipe, teacher: Teacher, records: Sequence[Record], path: Path) -> dict[str, str]:
    """The teacher's greedy output for each record, kept every few batches, so that a killed run goes on."""
    loaded = teacher.loaded
    generator = TransformersGenerator(
        loaded.model, loaded.tokenizer, recipe.prompt, name="teacher", max_source_tokens=recipe.limits.source
    )
    written = _read_targets(path)
    left = [record for record in records if record.id not in written]
    with console.progress("teacher's outputs", len(records), "outputs") as advance:
        for start in range(0, len(left), _CHUNK):
            part = left[start : start + _CHUNK]
            outputs = generator.generate(
                [record.source for record in part], max_new_tokens=recipe.limits.target, batch_size=16
            )
            written.update({record.id: output for record, output in zip(part, outputs, strict=True)})
            rows = (json.dumps({"id": key, "target": value}, ensure_ascii=False) for key, value in written.items())
            publish.write_text(path, "".join(f"{row}\n" for row in rows))
            advance(len(written), "")
    return written
