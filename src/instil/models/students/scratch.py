"""From scratch: a model of another's architecture, or of a named one, with sizes of its own and random weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from instil.core.errors import ModelError
from instil.data.tokens import Kind
from instil.models import folders
from instil.models.head import describe, unwrap
from instil.models.layers import Side, config_of_kept, stack_of
from instil.models.students.anatomy import ANATOMIES, anatomy_of
from instil.models.students.build import changed_config, new_model
from instil.models.students.new_tokenizer import token_settings
from instil.models.students.plan import Widths
from instil.models.students.sizes import Sizes, sizes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchReport:
    """The sizes that the student has, with its layers on either side."""

    layers: dict[str, int]
    sizes: Sizes


def from_scratch(
    model: nn.Module,
    layers: dict[Side, int],
    widths: Widths,
    *,
    seed: int,
    tokenizers: tuple[Any, Any] | None = None,
) -> tuple[nn.Module, ScratchReport]:
    """A model of the same class with random weights from `seed`. What `layers` and `widths` leave out is as in `model`.

    `tokenizers`: that of `model` and the new one, where the student reads in tokens of its own. Heads are as large as
    the hidden size shared among them, unless the teacher's are of another size, which then stays. What the config says
    of each layer is taken from the end of the teacher's list, since the last layer of a pattern is the one that looks
    far. Raises `ModelError` for an architecture that is not in the table, and for sizes that do not fit together.
    """
    inner = unwrap(model)
    anatomy = anatomy_of(inner)
    before = sizes_of(inner.config, anatomy)
    sizes = _sized(widths, before, inner)
    values: dict[str, Any] = dict(sizes.settings(inner.config, before, anatomy))
    for side, count in layers.items():
        stack = stack_of(inner, side)
        kept = [(number - count) % len(stack.layers) for number in range(count)]
        values |= config_of_kept(inner.config, stack, kept, side)
    if hasattr(inner.config, "rotary_dim"):
        values["rotary_dim"] = min(inner.config.rotary_dim, sizes.head_size)
    if tokenizers is not None:
        values |= token_settings(inner.config, *tokenizers)
    config = changed_config(inner, values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = new_model(inner, config)
    if tokenizers is not None:
        for key, value in token_settings(student.generation_config, *tokenizers).items():
            setattr(student.generation_config, key, value)
    sides: tuple[Side, ...] = ("encoder", "decoder") if config.is_encoder_decoder else ("decoder",)
    return student, ScratchReport(layers={side: len(stack_of(student, side).layers) for side in sides}, sizes=sizes)


def kind_of(architecture: str) -> Kind:
    """Of which kind models of this `architecture` of transformers are.

    Raises `ModelError` for one whose sizes cannot be chosen.
    """
    if architecture not in ANATOMIES:
        raise ModelError(
            f"{architecture}: no architecture that can be made from scratch; choose one of"
            f" {', '.join(sorted(ANATOMIES))}"
        )
    return folders.check_architecture({"model_type": architecture}, architecture)


def pattern(architecture: str, tokenizer: Any) -> nn.Module:
    """A model for `from_scratch` to go by: of this `architecture`, in the sizes that transformers gives it, for the
    tokens of `tokenizer`. It holds no weights."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(architecture)
    # Decoders start with padding, as T5's do; no other special token has a part in a model that knows none yet.
    known = {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id, "bos": tokenizer.bos_token_id}
    known["decoder_start"] = tokenizer.pad_token_id if config.is_encoder_decoder else None
    for key in {*config.to_dict(), *(f"{name}_token_id" for name in known)}:
        if key.endswith("_token_id"):
            setattr(config, key, known.get(key.removesuffix("_token_id")))
        elif key in ("vocab_size", "decoder_vocab_size"):
            setattr(config, key, len(tokenizer))
    with torch.device("meta"):
        model: nn.Module = folders.auto_class(kind_of(architecture)).from_config(config, dtype=torch.float32)
    return model


def _sized(widths: Widths, teacher: Sizes, model: Any) -> Sizes:
    given = {name: value for name, value in asdict(widths).items() if value is not None}
    found = replace(teacher, **given)
    if "heads" in given and "key_value_heads" not in given:
        group = teacher.heads // teacher.key_value_heads
        found = replace(found, key_value_heads=found.heads // group if not found.heads % group else found.heads)
    if teacher.head_size * teacher.heads == teacher.hidden:
        found = replace(found, head_size=found.hidden // found.heads)
        if found.hidden % found.heads:
            raise ModelError(
                f"{describe(model)}: hidden {found.hidden} is not a multiple of {found.heads} heads; give"
                f" {found.heads * math.ceil(found.hidden / found.heads)}, or another number of heads"
            )
    if found.heads % found.key_value_heads:
        raise ModelError(
            f"{describe(model)}: {found.heads} heads cannot share {found.key_value_heads} key-value heads evenly; give"
            " heads as a multiple of key_value_heads"
        )
    return found
