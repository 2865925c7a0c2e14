"""Model folders in the transformers format: what may not be loaded and why, their fingerprint, writing them.

Everything here is decided from `config.json` and file headers, before weights are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from instil.core.errors import EncoderOnlyError, ModelError, storage_error
from instil.core.fingerprint import fingerprint, hash_file, hash_files
from instil.data.tokens import Kind

UNKNOWN_LICENCE = "unknown"
CONFIG_NAME = "config.json"
CARD_NAME = "README.md"
WEIGHTS = "*.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_SINGLE_NAME = "model.safetensors"
_OLD_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.ckpt")

TOKENIZER_PATTERNS = (
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "source.spm",
    "target.spm",
    "sentencepiece*.model",
    "chat_template.*",
)
_SETTINGS = (CONFIG_NAME, "generation_config.json")
_NOTED_FILES = (*_SETTINGS, "tokenizer_config.json")
_NOTES = (
    *("transformers_version", "_name_or_path", "_model_name_or_path", "name_or_path", "_from_model_config"),
    *("is_local", "local_files_only"),
)
READING_PATTERNS = (*_SETTINGS, *TOKENIZER_PATTERNS, CARD_NAME)
HUB_PATTERNS = ("model*.safetensors", INDEX_NAME, *READING_PATTERNS)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters; its class where it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings from transformers inside; instil says itself what matters."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def quiet_hub() -> Iterator[None]:
    """No remarks on each retry from the hub's library inside; the error at the end says what matters."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """`config.json` of `folder` as a mapping. Raises `ModelError`, naming the model `name`."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ModelError(
            f"{name}: no {CONFIG_NAME} in {folder}; give the folder that a model was saved into (with {CONFIG_NAME}, "
            "model.safetensors and tokenizer files)"
        )
    try:
        config = json.loads(path.read_text(encoding="utf8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{name}: {path} is not readable JSON ({first_line(error)}); get the file again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{name}: {path} does not hold a JSON object; get the file again")
    return config


def check_architecture(config: Mapping[str, Any], name: str) -> Kind:
    """The kind of model that a raw `config.json` describes. Raises `ModelError` for all that is not text to text."""
    from transformers.models.auto import configuration_auto, modeling_auto

    model_type = str(config.get("model_type", ""))
    if model_type not in configuration_auto.CONFIG_MAPPING_NAMES:
        raise _unknown(config, model_type, name)
    architectures = [str(item) for item in config.get("architectures") or ()]
    seq2seq = model_type in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    if _is_encoder_only(config, model_type, architectures, seq2seq):
        raise EncoderOnlyError(
            f"{name}: {' '.join(architectures) or model_type} only encodes text and cannot write any; choose an "
            "encoder-decoder model (T5, BART, Marian, Pegasus) or a decoder-only one (Llama, Gemma, Qwen, Phi)"
        )
    if headed := [item for item in architectures if re.search(r"For(Sequence|Token|Question)", item)]:
        raise ModelError(f"{name}: {headed[0]} has a head that classifies; choose the model's text-generating variant")
    if seq2seq:
        return "encoder-decoder"
    if model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder-only"
    raise ModelError(f"{name}: a {model_type!r} model does not turn text into text; choose an encoder-decoder or "
                     "decoder-only language model")  # fmt: skip


def auto_class(kind: Kind) -> Any:
    """The transformers class that loads models of this kind."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if kind == "encoder-decoder" else AutoModelForCausalLM


def _unknown(config: Mapping[str, Any], model_type: str, name: str) -> ModelError:
    if config.get("auto_map"):
        return ModelError(
            f"{name}: needs code that comes with the model (architecture {model_type!r}), which instil does not run; "
            "choose a model whose architecture is part of transformers"
        )
    if not model_type:
        return ModelError(f'{name}: {CONFIG_NAME} has no "model_type"; get the file again from where the model is from')
    return ModelError(
        f"{name}: the installed transformers does not know the architecture {model_type!r}; update transformers "
        "or choose another model"
    )


def _is_encoder_only(config: Mapping[str, Any], model_type: str, architectures: list[str], seq2seq: bool) -> bool:
    from transformers.models.auto import modeling_auto

    if any(item.endswith("EncoderModel") for item in architectures):
        return True
    masked = model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return masked and not seq2seq and not config.get("is_decoder", False)


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files of a model, their headers read. Raises `ModelError` for missing or unreadable ones."""
    index = folder / INDEX_NAME
    files = _indexed(index, name) if index.is_file() else [folder / _SINGLE_NAME]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise _missing(folder, name, missing)
    for path in files:
        check_header(path, name)
    return files


def _indexed(index: Path, name: str) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{name}: {index} is damaged ({first_line(error)}); get the file again") from error
    if outside := [item for item in names if Path(item).name != item]:
        raise ModelError(f"{name}: {index} names {outside[0]!r}, which is outside its folder; get the model again")
    return [index.parent / item for item in sorted(names)]


def _missing(folder: Path, name: str, missing: list[str]) -> ModelError:
    old = sorted(path.name for pattern in _OLD_WEIGHTS for path in folder.glob(pattern))
    if old and missing == [_SINGLE_NAME]:
        return ModelError(
            f"{name}: has its weights only as {old[0]}, a format that can run code when read; use a safetensors "
            'version of the model (on the hub often under the revision "refs/pr/1"), or convert it where you trust it'
        )
    return ModelError(f"{name}: {', '.join(missing)} missing in {folder}; get the model again")


def check_header(path: Path, name: str) -> None:
    """Raises `ModelError` for a file that is no whole safetensors file. Reads its header only."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{name}: {path} is not readable ({first_line(error)}); get the file again") from error


def fingerprint_folder(folder: Path) -> str:
    """16 hex digits over the weights, settings and tokenizer files of a model folder; other files do not count.

    Notes that libraries leave in the settings, such as the version that wrote them, do not count either: the same
    model saved by the next release of transformers keeps its fingerprint, and so the labels made with it.
    """
    return fingerprint(_hash_weights(folder), _contents(folder, (*_SETTINGS, *TOKENIZER_PATTERNS)))


def fingerprint_parts(folder: Path) -> dict[str, str]:
    """What `fingerprint_folder` is of, one by one: weights, settings and tokenizer of a model folder."""
    return {
        "weights": fingerprint(_hash_weights(folder)),
        "settings": fingerprint(_contents(folder, _SETTINGS)),
        "tokenizer": fingerprint(_contents(folder, TOKENIZER_PATTERNS)),
    }


def _hash_weights(folder: Path) -> str:
    files = sorted(path for pattern in (WEIGHTS, INDEX_NAME) for path in folder.glob(pattern))
    stats = [path.stat() for path in files]
    return _hash_once(
        folder, tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(files, stats, strict=True))
    )


@lru_cache(maxsize=32)
def _hash_once(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files that are as large and as old as before, what they were: gigabytes take their time."""
    return hash_files([path for path, _, _ in files], folder)


def _contents(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return {path.name: _content(path) for path in found if path.is_file()}


def _content(path: Path) -> str:
    """A settings file without the libraries' notes, as a hash."""
    if path.suffix != ".json" or path.name not in _NOTED_FILES:
        return hash_file(path)
    try:
        values = json.loads(path.read_text(encoding="utf8"))
    except ValueError:
        return hash_file(path)
    return fingerprint({key: value for key, value in values.items() if key not in _NOTES})


def read_licence(folder: Path) -> str:
    """The licence that the model card of `folder` states; "unknown" without one."""
    card = folder / CARD_NAME
    text = card.read_text(encoding="utf8", errors="replace") if card.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", head.group(1), re.MULTILINE) if head else None
    return found.group(1) if found else UNKNOWN_LICENCE


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write `model` (safetensors) and `tokenizer` into the existing `folder`. Raises `StorageError`."""
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        for path in folder.glob(WEIGHTS):
            # safetensors makes files that only their owner may read, whatever the umask says.
            path.chmod((folder / CONFIG_NAME).stat().st_mode)
    except (SafetensorError, OSError) as error:
        raise storage_error(error, folder) from error
