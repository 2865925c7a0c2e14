"""Models that stages make: kept with a fingerprint of what was written, refused where it is something else now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instil.core.errors import ModelError
from instil.core.processes import is_first
from instil.models.adapters import hash_adapter, load_adapter, save_adapter
from instil.models.folders import fingerprint_folder
from instil.models.loading import LoadedModel, load_model, save_model
from instil.run.stage import Artifact

MODEL_NAME = "model"
ADAPTER_NAME = "adapter"


def keep_model(model: Any, tokenizer: Any, folder: Path, *, card: str = "") -> dict[str, str]:
    """Writes `folder / "model"`, with a model `card` if given; returns what the stage's result says of it. Of several
    processes, which all have the same model, the first writes."""
    if not is_first():
        return {}
    save_model(model, tokenizer, folder / MODEL_NAME, card=card)
    return {MODEL_NAME: fingerprint_folder(folder / MODEL_NAME)}


def keep_adapter(model: Any, base: str, folder: Path) -> dict[str, str]:
    """Writes the LoRA adapter of `model`, made for the model `base`, into `folder / "adapter"`; returns what the
    stage's result says of it. Of several processes the first writes."""
    if not is_first():
        return {}
    save_adapter(model, folder / ADAPTER_NAME, base=base)
    return {ADAPTER_NAME: hash_adapter(folder / ADAPTER_NAME)}


def load_made(artifact: Artifact, base: LoadedModel | None = None) -> LoadedModel:
    """The model of a finished stage; with `base`, that one with the stage's adapter.

    Raises `ModelError` for one that is not what the stage wrote.
    """
    name = MODEL_NAME if base is None else ADAPTER_NAME
    place = artifact.folder / name
    remedy = f"delete {artifact.folder} and run the same command again"
    try:
        found = hash_adapter(place) if base else fingerprint_folder(place)
        if found != artifact.manifest.result.get(name, found):
            raise ModelError(f"{place}: damaged, it is not what was written")
        return load_adapter(base, place) if base else load_model(str(place))
    except ModelError as error:
        raise ModelError(f"{error}; {remedy}") from error
