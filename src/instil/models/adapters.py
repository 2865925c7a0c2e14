"""LoRA adapters: small safetensors files that turn a base model into a teacher of one task."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

from instil.core import publish
from instil.core.errors import ModelError, storage_error
from instil.core.fingerprint import fingerprint, hash_files
from instil.core.publish import publish_folder
from instil.models.folders import check_header, first_line
from instil.models.loading import LoadedModel

_CONFIG_NAME = "adapter_config.json"
_WEIGHTS_NAME = "adapter_model.safetensors"


def load_adapter(loaded: LoadedModel, adapter: Path, *, merge: bool = True) -> LoadedModel:
    """`loaded` with the LoRA adapter in the folder `adapter`, whose fingerprint combines both.

    The weights change in place: `loaded.model` is not usable by itself afterwards. With `merge` the result is a plain
    transformers model; without, a `PeftModel` whose adapter can be taken off again.
    Raises `ModelError` for a folder that is no adapter, or is one for another model.
    """
    from peft import PeftModel

    _check_files(adapter)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are missing, which end in an error below
            adapted = PeftModel.from_pretrained(loaded.model, str(adapter))
    except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
        raise _misfit(loaded, adapter, first_line(error)) from error
    _check_complete(loaded, adapter, adapted)
    model = adapted.merge_and_unload() if merge else adapted
    return dataclasses.replace(
        loaded,
        model=model.eval(),
        ref=f"{loaded.ref}+{adapter}",
        fingerprint=fingerprint(loaded.fingerprint, hash_adapter(adapter)),
    )


def save_adapter(model: Any, folder: Path, *, base: str) -> None:
    """Write the adapter of a `PeftModel` into `folder` in one step, as safetensors. Raises `StorageError`.

    The settings name `base`, as a recipe would, for the model that the adapter is for.
    """
    from safetensors import SafetensorError

    with publish_folder(folder) as aside, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a base model that has no config file to compare the vocabulary with
        try:
            model.save_pretrained(aside)
            _portable(aside / _CONFIG_NAME, base)
            # peft's card has this machine's paths in it, and nothing else.
            (aside / "README.md").unlink(missing_ok=True)
        except SafetensorError as error:
            raise storage_error(error, folder) from error


def _portable(path: Path, base: str) -> None:
    """peft writes this machine's path of the base model, and module names in an order that changes from run to run."""
    settings = json.loads(path.read_text(encoding="utf8"))
    settings["base_model_name_or_path"] = base
    if isinstance(settings.get("target_modules"), list):
        settings["target_modules"].sort()
    publish.write_text(path, json.dumps(settings, indent=2) + "\n")


def hash_adapter(adapter: Path) -> str:
    """64 hex digits over the adapter's weights and settings. Raises `ModelError` for a folder that is no adapter."""
    _check_files(adapter)
    return hash_files([adapter / _CONFIG_NAME, adapter / _WEIGHTS_NAME], adapter)


def _check_files(adapter: Path) -> None:
    if not (adapter / _CONFIG_NAME).is_file():
        raise ModelError(
            f"{adapter}: no {_CONFIG_NAME}, so no adapter; give a folder that peft or `instil teach` wrote"
        )
    if (adapter / _WEIGHTS_NAME).is_file():
        check_header(adapter / _WEIGHTS_NAME, str(adapter))
        return
    if (adapter / "adapter_model.bin").is_file():
        raise ModelError(
            f"{adapter}: has its weights only as adapter_model.bin, a format that can run code when read; save it "
            "again with peft's save_pretrained, which writes safetensors"
        )
    raise ModelError(f"{adapter}: {_WEIGHTS_NAME} is missing; get the adapter again")


def _check_complete(loaded: LoadedModel, adapter: Path, adapted: Any) -> None:
    """peft leaves weights that it does not find at their start values, and says so in a warning only."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(adapter / _WEIGHTS_NAME, framework="pt") as file:
        found = {key for key in file.keys() if ".lora_" in key}  # noqa: SIM118 (a safetensors file is no mapping)
    expected = {key for key in get_peft_model_state_dict(adapted, save_embedding_layers=False) if ".lora_" in key}
    if found != expected:
        raise _misfit(loaded, adapter, f"{len(expected - found)} weights missing, {len(found - expected)} left over")


def _misfit(loaded: LoadedModel, adapter: Path, reason: str) -> ModelError:
    return ModelError(
        f"{adapter}: does not fit the model {loaded.ref} ({reason}); use the base model that the adapter was made for"
    )
