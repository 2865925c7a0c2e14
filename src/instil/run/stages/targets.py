"""What the student is to write where that is not the gold target: the teacher's own outputs, or stored completions.

They stand in `targets.jsonl`, a line each, `{"id": record, "target": text}`; a record may have several. Each is an
example of its own: the first under the record's id, the n-th under `id#n`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from instil.core import console, publish
from instil.core.errors import LabelError
from instil.core.fingerprint import fingerprint, hash_file
from instil.core.manifest import read_manifest
from instil.data.records import Record
from instil.labels.completions import Completions, read_completions
from instil.run.recipe import Recipe
from instil.run.stages.keeping import Targets, kept_targets
from instil.run.stages.teach import Teacher, generator_of

TARGETS_NAME, CANDIDATES_NAME = "targets.jsonl", "candidates.jsonl"
_CHUNK = 64
"""Outputs are kept, and progress told, every so many sources: two or three minutes of beam search on one core."""
_SHOWN = 40
"""Characters of a source in an error."""


def make_targets(recipe: Recipe, teacher: Teacher, records: Sequence[Record], folder: Path) -> list[Record]:
    """`records` with the targets that the recipe names; those that are not gold are written to `folder` first."""
    keep = recipe.labels.keep
    path = folder / (CANDIDATES_NAME if keep else TARGETS_NAME)
    if recipe.labels.completions is not None:
        _copy_completions(Path(recipe.labels.completions).expanduser(), records, path)
    elif recipe.labels.targets == "teacher":
        _generate(recipe, teacher, records, path)
    if keep and not (folder / TARGETS_NAME).is_file():
        _write(folder / TARGETS_NAME, kept_targets(recipe, keep, teacher, records, _read(path)))
    return labelled_records(folder, records)


def labelled_records(folder: Path, train: Sequence[Record]) -> list[Record]:
    """The training records, with other targets for gold where the stage in `folder` made or took some."""
    path = folder / TARGETS_NAME
    if not path.is_file():
        return list(train)
    written = _read(path)
    return [
        replace(record, id=record.id if number == 1 else f"{record.id}#{number}", targets=(text,))
        for record in train
        for number, text in enumerate(written.get(record.id, ()), start=1)
        if text
    ]


def damage_of_targets(folder: Path) -> str:
    """What is wrong with the targets that the label stage in `folder` made, in a few words; empty where they are as
    they were written, or where it made none."""
    manifest = read_manifest(folder)
    known = manifest.result.get(TARGETS_NAME) if manifest else None
    path = folder / TARGETS_NAME
    if known is None:
        return ""
    if not path.is_file():
        return f"{path}: missing"
    if (found := hash_file(path)) != known:
        return f"{path}: damaged (checksum {found[:12]}, the manifest has {known[:12]})"
    return ""


def _read(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    # Not splitlines: a text may hold characters that it takes for line ends, and JSON leaves them as they are.
    lines = path.read_text(encoding="utf8").split("\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if line:
            record, text = _target(line, path, number)
            found.setdefault(record, []).append(text)
    return found


def _target(line: str, path: Path, number: int) -> tuple[str, str]:
    with suppress(ValueError, KeyError, TypeError):
        row = json.loads(line)
        record, text = row["id"], row["target"]
        if isinstance(record, str) and isinstance(text, str):
            return record, text
    raise LabelError(
        f"{path}:{number}: damaged, no id with a target; delete the file and run the instil label command that made it"
        " again, or copy the labels anew"
    )


def _write(path: Path, targets: Targets) -> None:
    rows = (
        json.dumps({"id": key, "target": text}, ensure_ascii=False) for key, texts in targets.items() for text in texts
    )
    publish.write_text(path, "".join(f"{row}\n" for row in rows))


def _copy_completions(source: Path, records: Sequence[Record], path: Path) -> None:
    found = read_completions(source)
    console.say(f"  {source}: {found}")
    used = {record.id: texts for record in records if (texts := found.of(record))}
    if not used:
        raise LabelError(f"{source}: {_strange(found, records[0])}; write the records' own ids into the requests")
    if len(used) < len(records):
        console.say(f"  {len(records) - len(used):,} of {len(records):,} training records have no completion")
    _write(path, used)


def _strange(found: Completions, record: Record) -> str:
    """Why none of them belongs to a record such as `record`."""
    if found.targets:
        return f"none of its ids is a training record's (here {next(iter(found.targets))!r}, there {record.id!r})"
    here, there = (text[:_SHOWN] for text in (next(iter(found.by_source)), record.source))
    return f"no last user message is a training record's source (here {here!r}, there {there!r})"


def _generate(recipe: Recipe, teacher: Teacher, records: Sequence[Record], path: Path) -> None:
    """The teacher's outputs for each record, kept every few batches, so that a killed run goes on."""
    section = recipe.labels
    generator = generator_of(recipe, teacher, beams=section.beams)
    written = _read(path)
    left = [record for record in records if record.id not in written]
    with console.progress("teacher's outputs", len(records), "outputs") as advance:
        for start in range(0, len(left), _CHUNK):
            part = left[start : start + _CHUNK]
            outputs = generator.candidates(
                [record.source for record in part], section.candidates, max_new_tokens=recipe.limits.target,
                batch_size=16, sample=section.sample, seed=int(fingerprint(recipe.seed, part[0].id), 16) % (1 << 31),
            )  # fmt: skip
            written.update({record.id: texts for record, texts in zip(part, outputs, strict=True)})
            _write(path, written)
            advance(len(written), "")
