"""Which tokens a student keeps: what targets, prompt and spelling need, then the most frequent of the sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from instil.core.errors import ConfigError
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.tokens import Kind, Limits, cut_sources, tokenize_prompts, tokenize_targets
from instil.models.students.vocabulary.pieces import Pieces

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_TOGETHER = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What a student reads and writes: `records` with their first target each, and the targets of `others`, where those
    are other ones (a teacher's outputs). Rendered by `prompt`, within `limits`."""

    prompt: Prompt
    limits: Limits
    kind: Kind
    records: Sequence[Record]
    others: Sequence[Record] = ()

    def targets(self) -> Iterable[Record]:
        """Every record whose target is to be kept as it is."""
        known = {(record.id, record.targets[0]) for record in self.records}
        return chain(self.records, (each for each in self.others if (each.id, each.targets[0]) not in known))


Entry = tuple[int, bool]
"""A token id, and whether it is joined with others in one word. A word is what a tokenizer cuts a text into before it
does anything else; some take the whole text for one."""


class Tally(Counter[Entry]):
    """How often token ids occur, joined with others and alone."""

    def add(self, encoding: BatchEncoding) -> None:
        """Count the tokens of some texts. A tokenizer that is not fast does not tell words: all count as joined."""
        if encoding.encodings is None:
            self.update((token, True) for ids in encoding["input_ids"] for token in ids)
        for text in encoding.encodings or ():
            words = [None, *text.word_ids, None]
            self.update(
                (token, word is not None and word in (before, after))
                for token, before, word, after in zip(text.ids, words, words[1:], words[2:], strict=False)
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What texts make use of: `fixed`, targets and the prompt around an empty source; `read`, prompts as they are read,
    their sources cut to the limit; `whole`, sources as the tokenizer sees them before they are cut."""

    fixed: Tally = field(default_factory=Tally)
    read: Tally = field(default_factory=Tally)
    whole: Tally = field(default_factory=Tally)

    def wanted(self) -> list[Entry]:
        """The entries of the sources, the most frequent first: as they are read, then in the whole sources."""
        return sorted({*self.read, *self.whole}, key=lambda entry: (-self.read[entry], -self.whole[entry], entry))


def count_fixed(tokenizer: PreTrainedTokenizerBase, texts: Texts) -> Tally:
    """The use that targets and the prompt make of a tokenizer's tokens."""
    fixed = Tally()
    fixed.add(tokenize_prompts(tokenizer, texts.prompt, [""]))
    for part in parts(texts.targets()):
        fixed.add(tokenize_targets(tokenizer, texts.prompt, [record.targets[0] for record in part], texts.kind))
    return fixed


def count_use(tokenizer: PreTrainedTokenizerBase, texts: Texts) -> Use:
    """The use that `texts` make of a tokenizer's tokens."""
    use = Use(fixed=count_fixed(tokenizer, texts))
    for part in parts(texts.records):
        sources = [record.source for record in part]
        cut = [source for source, _ in cut_sources(tokenizer, sources, texts.limits.source)]
        use.read.add(tokenize_prompts(tokenizer, texts.prompt, cut))
        use.whole.add(tokenizer(sources, add_special_tokens=False))
    return use


def parts(records: Iterable[Record]) -> Iterator[list[Record]]:
    """A few hundred records at a time, which a tokenizer takes faster than one by one."""
    left = iter(records)
    while part := list(islice(left, _TOGETHER)):
        yield part


def _tokens(pieces: Pieces) -> dict[int, str]:
    return {number: token for token, number in pieces.ids.items()}


def _needed(pieces: Pieces, tokens: Mapping[int, str], number: int, joined: bool = True) -> set[int]:
    parts = pieces.parts(tokens[number]) if number in tokens and (joined or not pieces.by_word) else ()
    return {number, *(pieces.ids[part] for part in parts)}


def required(pieces: Pieces, fixed: Iterable[Entry], always: Collection[int], size: int | None) -> set[int]:
    """The ids that any student keeps: `always`, those of spelling, and of `fixed`. Raises `ConfigError` where there are
    more than `size`."""
    tokens = _tokens(pieces)
    kept = {*always, *(pieces.ids[token] for token in pieces.atoms())}
    kept.update(*(_needed(pieces, tokens, *entry) for entry in fixed))
    if size is not None and len(kept) > size:
        raise ConfigError(
            f"student.vocabulary.tokens is {size}, but targets, prompt, special tokens and spelling need {len(kept)};"
            f" give {len(kept)} or more"
        )
    return kept


def choose(pieces: Pieces, use: Use, always: Collection[int], size: int | None) -> list[int]:
    """Ids to keep, rising: `always`, those of spelling, targets and prompt, and of the sources either all (`size` None)
    or the most frequent, until there are `size`. Where the sources have too few, the lowest ids follow, which were the
    most common ones when the tokenizer was trained.

    A token that is joined with others comes with its parts, without which it is not found. Raises `ConfigError` where
    `size` is too small for what must be kept.
    """
    tokens = _tokens(pieces)
    needed = partial(_needed, pieces, tokens)
    kept = required(pieces, use.fixed, always, size)
    if size is None:
        return sorted(kept.union(*(needed(*entry) for entry in use.wanted())))
    fill = ((number, True) for number in sorted(tokens) if pieces.parts(tokens[number]))
    for entry in chain(use.wanted(), fill):
        if len(kept) == size:
            break
        if len(added := needed(*entry) - kept) <= size - len(kept):
            kept |= added
    return sorted(kept)
