"""Exports on a disk that is full: one line that names the user's folder, whatever the format's library says."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from instil.core.errors import StorageError
from instil.export import publish
from instil.export.formats.converting import saving
from test_export import PROBES, tiny_student, wide_student


@pytest.mark.parametrize(("target", "precision"), [
    ("hf", "fp32"), ("ctranslate2", "fp32"), ("ctranslate2", "int8"), ("gguf", "q8_0"), ("openvino", "fp16"),
    ("onnx", "fp32"), pytest.param("onnx-pair", "fp32", marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.parametrize("most", [1000, 40_000])
def test_a_full_disk_is_one_line(target: Any, precision: str, most: int, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    student = tiny_student("t5", tmp_path) if target == "onnx-pair" else wide_student("llama", tmp_path)
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(StorageError, match="failed while writing: the file would be larger") as caught:
            publish.export_student(
                student, target.removesuffix("-pair"), tmp_path / "out", precision=precision, probes=PROBES
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value).startswith(str(tmp_path / "out")) and "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in (".aside", "out/tmp"))
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize(("size", "raises"), [(1 << 20, RuntimeError), (3 << 20, OSError)])
def test_a_library_that_removes_what_it_wrote_is_seen_through(size: int, raises: type, tmp_path: Path) -> None:
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
    try:
        with pytest.raises(raises), saving(tmp_path, size):
            raise RuntimeError("basic_ios::clear: iostream error")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
