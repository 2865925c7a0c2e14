"""A model with fewer tokens: rows of its embedding and its head gathered, ids in its settings renumbered."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from instil.core.errors import ModelError
from instil.models.head import describe, unwrap

_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_LISTS_OF_LISTS = ("bad_words_ids", "force_words_ids")
_SIZES = ("vocab_size", "decoder_vocab_size")


def keep_rows(model: nn.Module, kept: Sequence[int]) -> nn.Module:
    """A new model of the same class that knows only the ids `kept` (rising), renumbered from 0 on; weights are copied,
    `model` is untouched. Raises `ModelError` for one whose encoder and decoder have vocabularies of their own."""
    inner = unwrap(model)
    new_ids = {old: new for new, old in enumerate(kept)}
    config = copy.deepcopy(inner.config)
    for section in {id(each): each for each in (config, config.get_text_config())}.values():
        _resize(section, len(kept), describe(inner))
        renumber(section, new_ids)
    student = type(inner)(config).to(inner.dtype)
    index = torch.tensor(kept, device=next(inner.parameters()).device)
    sizes = {name: tensor.shape for name, tensor in student.state_dict().items()}
    weights = {name: _gathered(tensor, sizes[name], index) for name, tensor in inner.state_dict().items()}
    student.load_state_dict(weights, strict=True)
    student.generation_config = copy.deepcopy(inner.generation_config)
    renumber(student.generation_config, new_ids)
    return student.eval()


def special_ids(model: nn.Module) -> set[int]:
    """The ids that a model's settings name: start, end, padding, forced ones."""
    inner = unwrap(model)
    rows = inner.get_input_embeddings().weight.shape[0]
    found: set[int] = set()
    for section in (inner.config, inner.config.get_text_config(), inner.generation_config):
        for value in (getattr(section, name) for name in _names(section)):
            found.update(each for each in (value if isinstance(value, list) else [value]) if 0 <= each < rows)
    return found


def renumber(settings: Any, new_ids: Mapping[int, int]) -> None:
    """Puts the new ids of tokens into a model's settings; an id that is not kept is left out."""
    for name in _names(settings):
        value = getattr(settings, name)
        if isinstance(value, list):
            setattr(settings, name, [new_ids[each] for each in value if each in new_ids] or None)
        else:
            setattr(settings, name, new_ids.get(value))
    for name in _LISTS:
        if ids := getattr(settings, name, None):
            setattr(settings, name, [new_ids[each] for each in ids if each in new_ids])
    for name in _LISTS_OF_LISTS:
        if words := getattr(settings, name, None):
            # A word that has lost a token cannot be written any more.
            left = [[new_ids[each] for each in word] for word in words if new_ids.keys() >= set(word)]
            setattr(settings, name, left or None)


def _names(settings: Any) -> list[str]:
    """The names of the settings that hold a token's id, or a list of such."""
    values = vars(settings)
    return [name for name in values if name.endswith("_token_id") and isinstance(values[name], int | list)]


def _resize(config: Any, size: int, name: str) -> None:
    sizes = {key: value for key in _SIZES if (value := getattr(config, key, None)) is not None}
    if len(set(sizes.values())) > 1:
        raise ModelError(f"{name} has one vocabulary for its encoder and one for its decoder, which cannot be trimmed")
    for key in sizes:
        setattr(config, key, size)


def _gathered(tensor: Tensor, shape: Sequence[int], index: Tensor) -> Tensor:
    """`tensor` with only the rows, or columns, of the kept ids where the student has fewer of them."""
    changed = [axis for axis, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)) if old != new]
    for axis in changed:
        tensor = tensor.index_select(axis, index.to(tensor.device))
    return tensor
