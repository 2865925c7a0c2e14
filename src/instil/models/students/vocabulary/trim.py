"""A student with a smaller vocabulary: (model, tokenizer, texts) -> a new model, a new tokenizer, and a report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from instil.core import units
from instil.data.tokens import cut_sources, encode_targets
from instil.models.head import unwrap
from instil.models.loading import count_parameters
from instil.models.students.vocabulary.choose import Texts, choose, count_use, parts
from instil.models.students.vocabulary.cut import keep_rows, special_ids
from instil.models.students.vocabulary.link import link
from instil.models.students.vocabulary.rewrite import by_word, keep_tokens, pieces_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyReport:
    """`kept` of `of` output ids. `changed`: records whose target is other tokens now. Of the `sources`, `respelled` are
    other tokens now, and all of them `longer` by this share. Distinct weights before and after.
    """

    kept: int
    of: int
    changed: tuple[str, ...]
    sources: int
    respelled: int
    longer: float
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        targets = f"{len(self.changed):,} targets changed, such as {self.changed[0]!r}" if self.changed else ""
        return (
            f"keeps {self.kept:,} of {self.of:,} tokens; {targets or 'targets unchanged'};"
            f" {self.respelled:,} of {self.sources:,} sources spelled anew, {self.longer:.1%} longer in all;"
            f" {units.count(self.parameters_before)} -> {units.count(self.parameters_after)} parameters"
        )


_PLACEHOLDER = re.compile(r"[<\[]\|?(unused|reserved|placeholder)[a-z_]*\d+\|?[>\]]", re.IGNORECASE)
"""Names that were left free for later, some tokenizers have thousands: they are kept only where texts have them."""


def trim(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Texts, size: int | None
) -> tuple[nn.Module, PreTrainedTokenizerBase, VocabularyReport]:
    """A student that knows `size` tokens, or with None those that `texts` use; neither `model` nor `tokenizer` change.

    All that the tokenizer knows by special names stays, and whatever every text can be spelled with, so that any text
    still goes in and comes out. Where words that are tokens can be taken as they are, their parts need not stay.
    Raises `ModelError` for a tokenizer or a model that cannot be trimmed, `ConfigError` where `size` is too small.
    """
    config = unwrap(model).config
    worded = by_word(tokenizer, config)
    for basis in (worded, tokenizer) if worded is not None else (tokenizer,):
        kept = _kept(model, basis, texts, size)
        trimmed = keep_tokens(basis, config, kept)
        changed, respelled, longer = compare(tokenizer, trimmed, texts)
        if not changed and (size is not None or not respelled):
            break
    rows = unwrap(model).get_input_embeddings().weight.shape[0]
    # A tokenizer may have special tokens behind the model's last row (Gemma 3's for images).
    student = keep_rows(model, [number for number in kept if number < rows])
    return student, trimmed, VocabularyReport(
        kept=len(kept), of=rows, changed=changed, sources=len(texts.records), respelled=respelled, longer=longer,
        parameters_before=count_parameters(model), parameters_after=count_parameters(student),
    )  # fmt: skip


def _kept(model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Texts, size: int | None) -> list[int]:
    names = tokenizer.added_tokens_decoder.items()
    named = {number for number, name in names if not _PLACEHOLDER.fullmatch(name.content)}
    return choose(pieces_of(tokenizer), count_use(tokenizer, texts), special_ids(model) | named, size)


def compare(
    old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, texts: Texts
) -> tuple[tuple[str, ...], int, float]:
    """Records whose target is other tokens under `new`; how many sources are; and by what share all are longer."""
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
    return tuple(changed), respelled, long_after / max(long_before, 1) - 1
