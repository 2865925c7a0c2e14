"""Naming a model: one of the built-in table, a folder, a config file, or an id of the hub in the local cache."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from instil.core.errors import ModelError
from instil.plan.configs import read_config, shape_of_config
from instil.plan.shape import Shape
from instil.plan.tables import json_of


@cache
def known_models() -> dict[str, Shape]:
    """The built-in table, by short name."""
    return {name: shape_of_config(name, config) for name, config in json_of("models.json").items()}


def hub_ids() -> dict[str, str]:
    """The hub id of each built-in model, by short name."""
    return {name: str(config["hub"]) for name, config in json_of("models.json").items()}


def find_model(ref: str) -> Shape:
    """The shape of the model that `ref` names. Raises `ModelError` with what is known."""
    known = known_models()
    short = _short(ref)
    if short in known:
        return known[short]
    for name, hub in hub_ids().items():
        if ref.lower() in (hub.lower(), hub.lower().removesuffix("-instruct").removesuffix("-it")):
            return known[name]
    path = Path(ref).expanduser()
    if path.exists():
        return shape_of_config(path.name, read_config(path))
    if "/" in ref:
        return shape_of_config(ref.rpartition("/")[2], _from_hub(ref))
    raise ModelError(f"unknown model {ref!r}; name a folder, a config.json, a hub id, or one of {', '.join(known)}")


def _short(ref: str) -> str:
    return ref.lower().rpartition("/")[2].removesuffix("-instruct").removesuffix("-it").removesuffix("-hf")


def _from_hub(ref: str) -> Mapping[str, Any]:
    """The config of a hub id: from the cache, or fetched where the hub can be reached."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return read_config(Path(hf_hub_download(ref, "config.json", etag_timeout=5)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"{ref}: its config can be fetched neither from the hub nor from the cache; name a config.json instead"
        ) from error
