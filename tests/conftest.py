"""What every test runs under: shapes checked, no network, no trace in the user's home.

This runs before any module of instil or of Hugging Face is imported, because both read the environment on import.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from jaxtyping import install_import_hook

SOURCE = Path(__file__).resolve().parents[1] / "src"
SHAPED_ROOMS = ("objectives", "models")


def _scratch_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="instil-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _user_caches() -> list[Path]:
    """Where `instil.models.wheels.cache_folder` would look, on Linux and macOS."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    return [Path(chosen)] if chosen else [Path.home() / ".cache", Path.home() / "Library" / "Caches"]


def _isolate() -> None:
    """Keep tests off the network and out of the user's caches, but let them use models unpacked there before."""
    scratch = _scratch_folder()
    if not os.environ.get("INSTIL_TEST_NETWORK"):
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
        os.environ["HF_HOME"] = str(scratch / "huggingface")
    if not any((folder / "instil").is_dir() for folder in _user_caches()):
        os.environ.setdefault("INSTIL_CACHE", str(scratch / "instil"))
    os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _shaped_modules() -> list[str]:
    """Modules whose annotations carry shapes, by dotted name."""
    files = (file for room in SHAPED_ROOMS for file in sorted((SOURCE / "instil" / room).rglob("*.py")))
    return [
        ".".join(file.relative_to(SOURCE).with_suffix("").parts)
        for file in files
        if "from jaxtyping import" in file.read_text(encoding="utf8")
    ]


_isolate()
if modules := _shaped_modules():
    install_import_hook(modules, "beartype.beartype")
