"""What every kind of cut does last: a new model of the teacher's class from a changed config."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from instil.core.errors import ModelError
from instil.models.folders import first_line
from instil.models.head import describe


def changed_config(model: Any, values: Mapping[str, Any]) -> Any:
    """The config of `model` with other `values`, which its class finds consistent, as it must when it is loaded again.

    Raises `ModelError` with what the class says.
    """
    from huggingface_hub.errors import StrictDataclassError

    config = copy.deepcopy(model.config)
    try:
        for key, value in values.items():
            setattr(config, key, value)
        _count_cache(config)
        type(config).from_dict(config.to_dict())
    except (ValueError, StrictDataclassError) as error:
        reason = first_line(error.__cause__ or error).rstrip(".")
        raise ModelError(
            f"{describe(model)} cannot be had with {', '.join(f'{key} {value}' for key, value in values.items())}: its"
            f" config contradicts itself ({reason}); choose other sizes"
        ) from error
    return config


def _count_cache(config: Any) -> None:
    """T5's config counts its decoder's layers by a name that transformers does not look for when it makes room for what
    attention remembers: it would take as many as the encoder has, too few for a deeper decoder."""
    layers = getattr(config, "num_decoder_layers", None)
    if layers and (layers > config.num_hidden_layers or hasattr(config, "decoder_layers")):
        config.decoder_layers = layers


def new_model(model: Any, config: Any) -> Any:
    """A model of the class of `model`, with its precision and its settings of generation, and weights of its own."""
    student = type(model)(config).to(model.dtype)
    student.generation_config = copy.deepcopy(model.generation_config)
    return student.eval()
