"""Where exports may stand: --force replaces an earlier one and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from command import instil
from instil.core.errors import ConfigError
from instil.export import publish
from instil.export.parity import PARITY_NAME
from instil.export.place import place_of
from instil.export.sheet import SHEET_NAME, read_sheet
from instil.export.student import Student, open_student
from test_export import PROBES, tiny_student


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return tiny_student("llama", tmp_path_factory.mktemp("llama"))


def bytes_of(folder: Path) -> dict[str, bytes | str]:
    """All that stands under `folder`, links by where they lead."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def many_things(llama: Student, tmp_path: Path) -> Path:
    """A stage with its student, exports alone, with a folder in it and with a manifest, a file and links."""
    shutil.copytree(llama.loaded.ref, tmp_path / "runs" / "stage" / "model")
    for folder in ("whole", "nested", "staged"):
        (tmp_path / folder).mkdir()
        for name in (SHEET_NAME, PARITY_NAME, "model.bin"):
            (tmp_path / folder / name).write_text(name)
    (tmp_path / "staged" / "manifest.json").write_text("{}")
    (tmp_path / "nested" / "mine").mkdir()
    (tmp_path / "nested" / "mine" / "notes.txt").write_text("notes")
    (tmp_path / "a.yaml").write_text("name: k")
    (tmp_path / "empty").mkdir()
    for name in ("whole", "nested", "a.yaml"):
        (tmp_path / f"link-{name}").symlink_to(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("out", "says"), [
    ("runs", "holds the student"), ("runs/stage", "holds the student"), ("runs/stage/model", "holds the student"),
    ("a.yaml", "is a file"), ("link-a.yaml", "is a file"), ("nested", "holds other things than an export"),
    ("link-nested", "holds other things than an export"), ("staged", "holds other things than an export"),
    (".", "holds the student"), ("cwd", "is in use"),
])  # fmt: skip
@pytest.mark.parametrize("force", [False, True])
def test_force_replaces_nothing_but_an_export(
    out: str, says: str, force: bool, many_things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (many_things / "cwd").mkdir()
    monkeypatch.chdir(many_things / "cwd" if out == "cwd" else many_things)
    student, before = open_student(many_things / "runs" / "stage"), bytes_of(many_things)
    with pytest.raises(ConfigError, match=says) as caught:
        publish.export_student(student, "hf", Path("." if out == "cwd" else out), probes=PROBES, force=force)
    assert "\n" not in str(caught.value) and "add --force" not in str(caught.value)
    assert bytes_of(many_things) == before


def test_a_stage_stays_that_the_student_is_not_of(llama: Student, many_things: Path) -> None:
    with pytest.raises(ConfigError, match="holds other things than an export"):
        place_of(many_things / "runs" / "stage", [Path(llama.loaded.ref)], force=True)


def test_an_export_behind_a_link_is_replaced_and_an_empty_folder_filled(llama: Student, many_things: Path) -> None:
    publish.export_student(llama, "hf", many_things / "empty", precision="fp32", probes=PROBES)
    publish.export_student(llama, "hf", many_things / "link-whole", precision="fp32", probes=PROBES, force=True)
    assert (many_things / "link-whole").is_symlink() and not (many_things / "whole" / "model.bin").exists()
    assert read_sheet(many_things / "whole") == read_sheet(many_things / "empty")
    assert not list(many_things.glob(".*"))


def test_the_command_looks_at_the_place_first(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    ended = instil("export", "no-student", "--to", "hf", "--out", "notes", "--force", cwd=tmp_path)
    assert ended.code == 2 and ended.said.startswith("notes: holds other things than an export")
