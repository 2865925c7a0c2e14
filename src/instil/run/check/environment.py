"""Checks of the machine: versions of libraries, the device, the folder that runs go to."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from instil.core.manifest import hardware
from instil.core.problems import Problem, fail, info


def versions(required: Iterable[str] | None = None) -> list[Problem]:
    """Whether the libraries are such as this release was made for. `required`: as packages declare it."""
    from packaging.requirements import Requirement

    found = []
    for text in _declared() if required is None else required:
        need = Requirement(text)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(fail("library-missing", f"{need.name} is not installed", f"pip install '{need}'"))
            continue
        if not need.specifier.contains(installed, prereleases=True):
            remedy = f"pip install '{need}'"
            found.append(fail("library-version", f"{need.name} is {installed}, not {need.specifier}", remedy))
    return found


def _declared() -> list[str]:
    try:
        return importlib.metadata.requires("instil") or []
    except importlib.metadata.PackageNotFoundError:
        return []  # Run from its source, with nothing installed.


def device() -> list[Problem]:
    """What will compute."""
    import torch

    cores = hardware()["cores"]
    if not torch.accelerator.is_available():
        remedy = "fine for small models; a GPU is about a hundred times as fast"
        return [
            info("device", f"no GPU: {cores} processor cores compute", remedy, evidence=f"torch {torch.__version__}")
        ]
    if not torch.cuda.is_available():
        return [info("device", f"computes on {torch.accelerator.current_accelerator()}")]
    bf16 = "with" if torch.cuda.is_bf16_supported(including_emulation=False) else "without"
    return [info("device", f"computes on {torch.cuda.get_device_name()}, {bf16} bf16")]


def free_memory() -> float:
    """Bytes that a process may still take on the device that will compute."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def runs_folder(folder: Path) -> list[Problem]:
    """Whether runs can be written to `folder`; nothing is written to find out."""
    place = existing(folder)
    remedy = "choose another folder with --set runs_dir=FOLDER, or change its permissions"
    if not place.is_dir():
        return [fail("runs-folder", f"{place} is a file, where runs go", remedy)]
    if not os.access(place, os.W_OK | os.X_OK):
        return [fail("runs-folder", f"{place} may not be written, where runs go", remedy)]
    return []


def existing(folder: Path) -> Path:
    """`folder`, or the nearest above it that there is."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def free_disk(folder: Path) -> float:
    """Bytes that are free where `folder` is, or will be."""
    return float(shutil.disk_usage(existing(folder)).free)
