"""Records that a teacher writes: what stays of them, and that a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instil.core.errors import ConfigError, StorageError
from instil.data.records import Record
from instil.run.pipeline import Pipeline
from instil.run.recipe import Recipe
from instil.run.recipe_file import read_recipe
from instil.run.sections.synthetic import SyntheticConfig
from instil.run.stages.synthesise import RECORDS_NAME, WRITTEN_NAME, Written, keep
from project import project
from project import recipe as project_recipe

_PLAIN = {
    "teacher": {"teach": None},
    "limits": {"source": 40, "target": 16},
    "distil": {"without_teacher": False, "loop": {"budget": {"steps": 2}}},
}
_ASKED = {"ask": "New:", "shots": 1}


def test_what_stays_is_new_whole_and_probable() -> None:
    held_out = "one two three four five six seven eight nine ten"
    splits = {
        "train": [Record("1", "known source", ("t",))],
        "validation": [],
        "test": [Record("2", held_out, ("t",))],
    }
    written = [
        Written("a new source", "good", -0.5),
        Written("known  source", "copied", -0.5),
        Written("a new source", "twice", -0.5),
        Written(f"{held_out} and", "leaked", -0.5),
        Written("another source", "unlikely", -9.0),
        Written("", "nothing", -0.5),
        Written("no answer here", "", None),
        Written("a third source", "good", -0.5),
    ]
    section = SyntheticConfig(records=5, max_perplexity=20)
    kept, account = keep(written, Recipe.model_validate(project_recipe()), section, splits)
    assert [record.source for record in kept] == ["a new source", "a third source"]
    assert account == {
        "written": 8, "kept": 2, "exact duplicate": 2, "leaked n-gram": 1, "improbable": 1, "empty source": 1,
        "empty target": 1,
    }  # fmt: skip


def _lesson(folder: Path, *changes: str) -> Pipeline:
    pipeline = Pipeline(read_recipe(folder / "recipe.yaml", changes), folder)
    _ = pipeline.lesson
    return pipeline


def test_the_student_learns_beside_or_instead(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", "llama", pairs=30, synthetic={"records": 6, **_ASKED}, **_PLAIN)
    beside = _lesson(folder)
    made = [record for record in beside.lesson.splits["train"] if record.id.startswith("synthetic-")]
    assert 0 < len(made) <= 6 and len(beside.lesson.splits["train"]) == len(made) + len(beside.data.splits["train"])
    assert beside.lesson.fingerprint != beside.data.fingerprint
    instead = _lesson(folder, "synthetic.instead=true")
    assert instead.lesson.splits["train"] == made
    assert {record.id.partition("#")[0] for record in instead.labels.records} <= {record.id for record in made}
    assert instead.student.manifest.result["step"] == 2


def test_a_killed_run_writes_only_what_is_missing(tmp_path: Path) -> None:
    whole, cut = (
        project(tmp_path / name, "llama", pairs=30, synthetic={"records": 70, "tries": 1, **_ASKED}, **_PLAIN)
        for name in ("whole", "cut")
    )
    folder = _lesson(whole).lesson.artifact.folder
    lines = (folder / WRITTEN_NAME).read_text(encoding="utf8").split("\n")
    part = cut / "runs" / "llama" / f"{folder.name}.part"
    part.mkdir(parents=True)
    first = [json.dumps(json.loads(lines[0]) | {"source": "kept as it was"}, ensure_ascii=False), *lines[1:64]]
    (part / WRITTEN_NAME).write_text("\n".join([*first, ""]), encoding="utf8")
    again = (_lesson(cut).lesson.artifact.folder / WRITTEN_NAME).read_text(encoding="utf8").split("\n")
    assert len(lines) == 71 and again == [*first, *lines[64:]]


def test_damaged_records_are_one_line_and_other_beams_write_other_ones(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a lonely text\nand another one\n", encoding="utf8")
    folder = project(tmp_path, pairs=30, synthetic={"records": 5, "texts": "texts.txt"}, **_PLAIN)
    made = _lesson(folder).lesson.artifact.folder
    assert _lesson(folder, "labels.beams=2").lesson.artifact.folder != made
    records = made / RECORDS_NAME
    whole = records.read_text(encoding="utf8")
    for content in (whole[:-9], whole.partition("\n")[2], whole.replace("lonely", "lovely"), None):
        records.unlink() if content is None else records.write_text(content, encoding="utf8")
        with pytest.raises(StorageError, match=rf"{made.name}: damaged, .*delete the folder and run the same command"):
            _lesson(folder)


def test_unlabelled_texts_get_answers(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", pairs=30, synthetic={"records": 5, "texts": "texts.txt"}, **_PLAIN)
    with pytest.raises(ConfigError, match=r"texts\.txt: no such file"):
        _lesson(folder)
    (folder / "texts.txt").write_text("a lonely text\n\nand another one\n", encoding="utf8")
    made = [record for record in _lesson(folder).lesson.splits["train"] if record.id.startswith("synthetic-")]
    assert {record.source for record in made} <= {"a lonely text", "and another one"}
    (folder / "texts.txt").unlink()


def test_an_encoder_decoder_writes_no_sources(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", pairs=30, synthetic={"records": 5}, **_PLAIN)
    with pytest.raises(ConfigError, match=r"give synthetic\.texts"):
        _lesson(folder)
