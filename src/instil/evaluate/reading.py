"""Which systems of a comparison show what they predict, token by token, and what `fidelity` finds in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from instil.core.errors import ModelError
from instil.data.tokens import Encoded, Limits, encode_records
from instil.evaluate.fidelity import Reader, examine
from instil.evaluate.metric import Counted
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.models.head import head_of

if TYPE_CHECKING:
    from instil.core.protocol import Generator
    from instil.data.records import Record

_NO_LIMIT = 1 << 30


def examine_systems(
    systems: Mapping[str, Generator],
    records: Sequence[Record],
    *,
    teacher: str | None,
    longest_target: int,
    done: Callable[[int], object] | None = None,
) -> tuple[dict[str, list[Counted]], list[str]]:
    """Loss and calibration of each system that is a model in memory on the first targets of `records`, and how near it
    is to the `teacher`; with remarks on what could not be told. `done` is told how many examples are through."""
    open_ones = {name: system for name, system in systems.items() if isinstance(system, TransformersGenerator)}
    master = open_ones.get(teacher or "")
    remarks = []
    if teacher and not master:
        remarks.append(f"{teacher} does not show what it predicts, so nearness to it is not measured")
    found: dict[str, list[Counted]] = {}
    for number, (name, system) in enumerate(open_ones.items()):
        limits = Limits(source=system.max_source_tokens or _NO_LIMIT, target=longest_target)
        examples, _ = encode_records(system.tokenizer, system.prompt, records, limits, system.kind)
        beside = master if master is not system else None
        if beside and not _same_tokens(beside, system):
            remarks.append(f"{name} has other tokens than {teacher}, so its nearness to it is not measured")
            beside = None
        progress = _after(number * len(records), done)
        found[name] = _examine(system, beside, examples, progress)
    return found, remarks


def _examine(
    system: TransformersGenerator, teacher: TransformersGenerator | None, examples: Sequence[Encoded],
    done: Callable[[int], object],
) -> list[Counted]:  # fmt: skip
    known = max(system.tokenizer.get_vocab().values()) + 1
    valid = min([known, *(len(head_of(one.model).weight_VD) for one in (system, teacher) if one)])
    return examine(_reader(system, valid), examples, teacher=_reader(teacher, valid) if teacher else None, done=done)


def _reader(system: TransformersGenerator, valid: int) -> Reader:
    """Its model, the ids that no tokenizer gives left out."""
    try:
        return Reader(system.model, family_of(system.model, n_valid=valid))
    except ModelError as error:
        raise ModelError(f"{system.name}: {error}") from error


def _same_tokens(one: TransformersGenerator, other: TransformersGenerator) -> bool:
    return one.kind == other.kind and one.tokenizer.get_vocab() == other.tokenizer.get_vocab()


def _after(before: int, done: Callable[[int], object] | None) -> Callable[[int], object]:
    return lambda count: done(before + count) if done else None
