"""Watching what parts of a model read and give while something passes through it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from instil.data.tokens import Encoded
from instil.models.family import Batch, Family
from instil.models.probe import evaluating

K = TypeVar("K", bound=Hashable)


class FarEnough(Exception):
    """Raised by a hook to end an example's pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """What is watched: what `module` gives, of several things the one at `part`, only the `channels` of its
    last axis where they are given; or, with `before`, the hidden states that it reads."""

    module: nn.Module
    part: int = 0
    channels: slice | None = None
    before: bool = False


def given_by(output: Any, part: int = 0) -> Any:
    """What a module gave; of several things the one at `part`, by default the hidden states of a layer."""
    return output[part] if isinstance(output, tuple) else output


def read_by(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states that a layer was called with."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Inside, the hooks of `handles` are there; afterwards they are gone."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched(spots: Mapping[K, Spot]) -> Iterator[dict[K, Any]]:
    """Inside, what was last seen at each of `spots` is kept, with its graph, under the same key."""
    seen: dict[K, Any] = {}

    def hook(key: K, spot: Spot) -> RemovableHandle:
        if spot.before:

            def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                seen[key] = read_by(args, kwargs)

            return spot.module.register_forward_pre_hook(before, with_kwargs=True)

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            found = given_by(output, spot.part)
            seen[key] = found if spot.channels is None else found[..., spot.channels]

        return spot.module.register_forward_hook(after)

    with hooked([hook(key, spot) for key, spot in spots.items()]):
        yield seen


def watch(
    model: nn.Module, family: Family, examples: Sequence[Encoded], handles: Iterable[RemovableHandle]
) -> list[Batch]:
    """Each of `examples` as the batch that passed, one at a time, so that no padding counts; the hooks of `handles` are
    removed at the end."""
    device = next(model.parameters()).device
    batches = [family.collate([example]) for example in examples]
    with hooked(handles), evaluating(model):
        for batch in batches:
            with suppress(FarEnough):
                family.rows(model, batch.to(device))
    return batches
