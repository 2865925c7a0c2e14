"""Stage `label`: what the teacher knows about the train split, written down once; no student needs the teacher then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instil.core import console
from instil.core.errors import ConfigError, LabelError
from instil.core.fingerprint import fingerprint, hash_file
from instil.core.manifest import read_manifest
from instil.data.records import Record
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.mixed import MixedLabels
from instil.labels.served import ServedTeacher
from instil.labels.store import MANIFEST_NAME, LabelStore, damage_of, read_store_manifest
from instil.labels.teacher import Teacher as LabellingTeacher
from instil.labels.writer import Part, write_labels
from instil.models.family import family_of
from instil.models.loading import to_accelerator
from instil.run.recipe import Recipe
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.targets import TARGETS_NAME, damage_of_targets, labelled_records, make_targets
from instil.run.stages.teach import Teacher, encode, shipped

STORE_NAME = "store"
SERVED_HEAD = 20
"""Most ids that servers list unless they are told otherwise (vLLM's `--max-logprobs`)."""


@dataclass(frozen=True, slots=True)
class Labels:
    """An open store, the records that it labels (with the targets that were labelled), and its fingerprint. There is no
    store where the recipe gives labels no weight: then the records' targets are all that the teacher gave. `teacher`
    names a model with the tokenizer that they are in. `others` are the stages of further teachers' labels."""

    store: LabelStore | MixedLabels | None
    records: list[Record]
    fingerprint: str
    artifact: Artifact | None
    teacher: str
    others: Sequence[Artifact] = ()

    @property
    def least(self) -> float:
        """A stored probability of 0 is less than this."""
        return 0.5 / self.store.manifest.codec.unit if self.store else 0.0


def open_own(recipe: Recipe, train: Sequence[Record], teacher: Teacher, artifact: Artifact | None = None) -> Labels:
    """The teacher's own labels, which stand in `artifact`, or else in the store that the recipe names. Writes
    nothing."""
    section = recipe.labels
    folder = artifact.folder if artifact else stage_of_store(str(section.store))
    records = labelled_records(folder, train)
    if artifact and not wants_rows(recipe):
        records = labelled_records(folder, train[: section.records])
        return Labels(None, records, artifact.fingerprint, artifact, teacher.ref)
    codec = read_store_manifest(folder / STORE_NAME).codec
    wanted = recipe.distil if recipe.distil and recipe.distil.learns_from_labels else None
    store = LabelStore(
        folder / STORE_NAME, expect=sources_of(recipe, teacher), details=lambda: _details(recipe, teacher),
        temperature=wanted.temperatures[0] if wanted else codec.temperatures[0],
        drawn=wanted is None or (wanted.divergence == "forward_kl" and wanted.tokens == "same"),
    )  # fmt: skip
    records = [record for record in records if record.id in store]
    return Labels(store, records, store.manifest.mark, artifact, teacher.ref)


def stage_of_store(store: str) -> Path:
    """The folder that a recipe names as a store of labels: the store stands in it, and targets beside it."""
    folder = shipped(store, "labels")
    return folder.parent if folder.name == STORE_NAME and (folder / MANIFEST_NAME).is_file() else folder


def wants_rows(recipe: Recipe) -> bool:
    """Whether anything is to learn from the teacher's distributions."""
    return recipe.distil is None or recipe.distil.learns_from_labels


def write_part(shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher, part: Part | None) -> Artifact:
    """The finished store of the recipe's labels; of `part` of them, where several machines label together."""
    config = recipe.labels.model_dump(mode="json", exclude={"store", "batch_tokens", "completions", "others", "trust"})
    if recipe.labels.keep is None:
        del config["keep"]
    if recipe.labels.completions is not None:
        config["completions"] = hash_file(completions_file(recipe.labels.completions))
    config["rows"] = wants_rows(recipe)
    return shop.stage(
        "label",
        lambda folder: _label(shop, recipe, data, teacher, folder, part),
        inputs={**sources_of(recipe, teacher), "data": data.fingerprint},
        config=config | ({"part": str(part)} if part else {}),
        label=f"label-part-{part.number}-of-{part.of}" if part else "",
        damage=damage_of_labels,
    )


def sources_of(recipe: Recipe, teacher: Teacher) -> dict[str, str]:
    """What labels of `teacher` are made from, by role."""
    return {"teacher": teacher.fingerprint, "prompt": fingerprint(recipe.prompt, recipe.limits)}


def _details(recipe: Recipe, teacher: Teacher) -> dict[str, str]:
    """What `sources_of` is of, one by one."""
    limits = f"source {recipe.limits.source}, target {recipe.limits.target}"
    return teacher.details() | {"template": fingerprint(recipe.prompt), "limits": limits}


def _siblings(shop: Workshop) -> list[Path]:
    """Stores of earlier runs of this recipe, perhaps of fewer records: what they have in common is not made again."""
    return sorted(path / STORE_NAME for path in shop.root.glob(f"{shop.prefix}label-*") if path.suffix != ".part")


def damage_of_labels(folder: Path) -> str:
    """What is not as it was written. Damaged targets are removed, since nobody can tell which of them are right."""
    manifest = read_manifest(folder)
    if damage_of_targets(folder):
        (folder / TARGETS_NAME).unlink(missing_ok=True)
        return f"{TARGETS_NAME} is damaged"
    if manifest and not manifest.config.get("rows", True):
        return ""
    try:
        shards = read_store_manifest(folder / STORE_NAME).shards
    except LabelError:
        return f"{STORE_NAME}/{MANIFEST_NAME} is damaged"
    broken = [entry.file for entry in shards if damage_of(folder / STORE_NAME, entry)]
    return f"{', '.join(broken)} damaged or missing" if broken else ""


def _label(
    shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher, folder: Path, part: Part | None
) -> Mapping[str, Any]:
    section = recipe.labels
    if part and (section.targets == "teacher" or section.completions):
        raise ConfigError(f"part is {part}, but targets that are not gold are written in one piece; leave --part out")
    records = make_targets(recipe, teacher, data.splits["train"][: section.records], folder)
    marks = {TARGETS_NAME: hash_file(folder / TARGETS_NAME)} if (folder / TARGETS_NAME).is_file() else {}
    if not wants_rows(recipe):
        return {"examples": len(records), **marks}
    examples, _ = encode(recipe, teacher.reads, records, "labels")
    return {**write_store(shop, recipe, data, teacher, examples, folder, part), **marks}


def write_store(
    shop: Workshop, recipe: Recipe, data: Data, teacher: Teacher, examples: Sequence[Encoded], folder: Path,
    part: Part | None = None,
) -> dict[str, float]:  # fmt: skip
    """The store in `folder` of what `teacher` says of `examples`, and what was measured of it."""
    section, labeller = recipe.labels, labeller_of(recipe, teacher)
    head = section.head or (SERVED_HEAD if teacher.endpoint else None)
    codec = (
        Codec.top(head, labeller.vocabulary, section.temperatures)
        if head
        else Codec.of(section.detail, labeller.vocabulary, section.temperatures)
    )
    details = _details(recipe, teacher) | {"data": data.fingerprint}
    if not teacher.endpoint:
        details["dtype"] = str(teacher.loaded.model.dtype).removeprefix("torch.")
    with console.progress("label", len(examples), "examples") as advance:
        manifest = write_labels(
            labeller, examples, folder / STORE_NAME, codec=codec, made_from=sources_of(recipe, teacher),
            details=details, part=part, reuse=_siblings(shop), advance=advance,
        )  # fmt: skip
    return manifest.measured


def labeller_of(recipe: Recipe, teacher: Teacher) -> LabellingTeacher | ServedTeacher:
    """Who says what `teacher` knows of rows."""
    if teacher.endpoint and teacher.reader:
        plain = teacher.reader.tokenizer.encode("a", add_special_tokens=False)[-1]
        return ServedTeacher(endpoint=teacher.endpoint, vocabulary=teacher.reader.vocabulary, plain=plain)
    return labeller_in_memory(recipe, teacher)


def labeller_in_memory(recipe: Recipe, teacher: Teacher) -> LabellingTeacher:
    """The same of one whose weights are at hand."""
    model = to_accelerator(teacher.loaded.model)
    return LabellingTeacher(model=model, family=family_of(model), batch_tokens=recipe.labels.batch_tokens)


def completions_file(path: str) -> Path:
    """The file of a teacher's outputs. Raises `ConfigError` where there is none."""
    found = Path(path).expanduser()
    if not found.is_file():
        raise ConfigError(f"labels.completions: {path}: no such file; give the JSON lines of the teacher's outputs")
    return found
