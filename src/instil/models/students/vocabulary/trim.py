"""A student with a smaller vocabulary: (model, tokenizer, texts) -> a new model, a new tokenizer, and a report."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from instil.core import units
from instil.core.errors import ConfigError
from instil.data.tokens import cut_sources, encode_targets
from instil.models.head import unwrap
from instil.models.loading import count_parameters
from instil.models.students.vocabulary.choose import Texts, choose, count_fixed, count_use, parts, required
from instil.models.students.vocabulary.cut import keep_rows, special_ids
from instil.models.students.vocabulary.link import link
from instil.models.students.vocabulary.pieces import Words
from instil.models.students.vocabulary.rewrite import by_word, keep_tokens, pieces_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyReport:
    """`kept` of `of` output ids, `special` of them by their names. `changed`: records whose target is other tokens now.
    Of the `sources`, `respelled` are other tokens now, and all of them `longer` by this share. Distinct weights before
    and after.
    """

    kept: int
    of: int
    special: int
    changed: tuple[str, ...]
    sources: int
    respelled: int
    longer: float
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        targets = f"{len(self.changed):,} targets changed, such as {self.changed[0]!r}" if self.changed else ""
        return (
            f"keeps {self.kept:,} of {self.of:,} tokens, {self.special:,} of them special;"
            f" {targets or 'targets unchanged'};"
            f" {self.respelled:,} of {self.sources:,} sources spelled anew, {self.longer:.1%} longer in all;"
            f" {units.count(self.parameters_before)} -> {units.count(self.parameters_after)} parameters"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Records whose target is other tokens now; how many sources are; and by what share all sources are longer."""

    targets: tuple[str, ...]
    sources: int
    longer: float


def trim(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Texts, size: int | None, words: Words = "merged"
) -> tuple[nn.Module, PreTrainedTokenizerBase, VocabularyReport]:
    """A student that knows `size` tokens, or with None those that `texts` use; neither `model` nor `tokenizer` change.

    All that the tokenizer knows by special names stays, those that were left free for later included, and whatever
    every text can be spelled with, so that any text still goes in and comes out. With `words` "whole", and where words
    that are tokens can be taken as they are, their parts need not stay.
    Raises `ModelError` for a tokenizer or a model that cannot be trimmed, `ConfigError` where `size` is too small.
    """
    worded = by_word(tokenizer, unwrap(model).config) if words == "whole" else None
    kept, trimmed, changes = _trimmed(model, worded or tokenizer, tokenizer, texts, size)
    if worded and (changes.targets or (size is None and changes.sources)):
        # A token reaches across words. Without cutting them, more is to be kept, perhaps more than there is room for.
        with suppress(ConfigError):
            kept, trimmed, changes = _trimmed(model, tokenizer, tokenizer, texts, size)
    rows = unwrap(model).get_input_embeddings().weight.shape[0]
    # A tokenizer may have special tokens behind the model's last row (Gemma 3's for images).
    student = keep_rows(model, [number for number in kept if number < rows])
    return student, trimmed, VocabularyReport(
        kept=len(kept), of=rows, special=len(trimmed.added_tokens_decoder), changed=changes.targets,
        sources=len(texts.records), respelled=changes.sources, longer=changes.longer,
        parameters_before=count_parameters(model), parameters_after=count_parameters(student),
    )  # fmt: skip


def require_room(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Texts, size: int | None, words: Words = "merged"
) -> None:
    """Raises like `trim` for a tokenizer that cannot be trimmed and a `size` that is too small; makes nothing."""
    worded = by_word(tokenizer, unwrap(model).config) if words == "whole" else None
    basis = worded or tokenizer
    required(pieces_of(basis), count_fixed(basis, texts), special_ids(model) | basis.added_tokens_decoder.keys(), size)


def _trimmed(
    model: nn.Module, basis: PreTrainedTokenizerBase, original: PreTrainedTokenizerBase, texts: Texts, size: int | None
) -> tuple[list[int], PreTrainedTokenizerBase, Changes]:
    """The ids of `basis` that are kept, what is left of it, and what that changes."""
    always = special_ids(model) | basis.added_tokens_decoder.keys()
    kept = choose(pieces_of(basis), count_use(basis, texts), always, size)
    trimmed = keep_tokens(basis, unwrap(model).config, kept)
    return kept, trimmed, compare(original, trimmed, texts)


def compare(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, texts: Texts) -> Changes:
    """What `new`, which lacks some tokens of `old`, makes of `texts`."""
    found = link(old, new)
    assert found is not None
    changed: list[str] = []
    for part in parts(texts.targets()):
        targets = [record.targets[0] for record in part]
        before, after = (encode_targets(each, texts.prompt, targets, texts.kind) for each in (old, new))
        changed += [
            record.id
            for record, was, now in zip(part, before, after, strict=True)
            if tuple(was) != found.to_teacher(now)
        ]
    respelled = long_before = long_after = 0
    for part in parts(texts.records):
        sources = [source for source, _ in cut_sources(old, [record.source for record in part], texts.limits.source)]
        before, after = (each(sources, add_special_tokens=False)["input_ids"] for each in (old, new))
        respelled += sum(tuple(was) != found.to_teacher(now) for was, now in zip(before, after, strict=True))
        long_before += sum(map(len, before))
        long_after += sum(map(len, after))
    return Changes(targets=tuple(changed), sources=respelled, longer=long_after / max(long_before, 1) - 1)
