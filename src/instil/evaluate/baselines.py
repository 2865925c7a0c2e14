"""Trivial systems that need no weights. A model that does not beat them has learnt nothing worth its cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from instil.core.errors import DataError
from instil.evaluate.sentences import first_sentence
from instil.evaluate.words import unicode_words

if TYPE_CHECKING:
    from instil.core.protocol import Generator
    from instil.data.records import Record


class _Weightless:
    """The `Generator` protocol for a system that maps one source to one output."""

    name = "baseline"
    parameters = 0
    bytes = 0
    prefix = ""

    def generate(self, sources: Sequence[str], *, max_new_tokens: int = 0, batch_size: int = 1) -> list[str]:
        """One output for each of `sources`. Baselines have no tokens and no batches: both limits are ignored."""
        return [self.output(source.removeprefix(self.prefix)) for source in sources]

    def output(self, source: str) -> str:
        """The output for one source."""
        raise NotImplementedError


class Lead1(_Weightless):
    """The first sentence of the source: strong wherever writers say the main thing first."""

    name = "lead1"

    def output(self, source: str) -> str:
        """The first sentence of `source`."""
        return first_sentence(source)


class FirstWords(_Weightless):
    """The first words of the source, as many as a target has on average."""

    name = "first_words"

    def __init__(self, words: int) -> None:
        """`words`: how many to copy, at least 1."""
        self.words = max(1, words)

    @classmethod
    def of_train(cls, records: Iterable[Record]) -> FirstWords:
        """As many words as the targets of `records` have on average, rounded. Raises `DataError` without targets."""
        counts = [len(target.split()) for record in records for target in record.targets]
        if not counts:
            raise DataError("the first-words baseline needs train records with targets; the train split has none")
        return cls(round(sum(counts) / len(counts)))

    def output(self, source: str) -> str:
        """The first words of `source`."""
        return " ".join(source.split(None, self.words)[: self.words])


class NearestNeighbour(_Weightless):
    """Copies the first target of the train record whose source is most alike: cosine of tf-idf over words.

    Weights are (1 + log tf) * (1 + log((1 + n) / (1 + df))). An inverted index in flat arrays: the postings of word w
    stand at `starts[w]` to `starts[w + 1]`. Of equals, the earliest record wins; a source that shares no word with
    any gets the target of the first. 13,000 sources of 100 words take about 2 s to index and 3 ms to ask.
    """

    name = "nearest_neighbour"

    def __init__(self, records: Sequence[Record]) -> None:
        """Index the sources of `records`. Raises `DataError` when there are none."""
        if not records:
            raise DataError("the nearest-neighbour baseline needs train records; the train split is empty")
        self._targets = [record.targets[0] for record in records]
        self._words: dict[str, int] = {}
        self._index([Counter(unicode_words(record.source)) for record in records])

    def _index(self, counts: list[Counter[str]]) -> None:
        for counter in counts:
            for word in counter:
                self._words.setdefault(word, len(self._words))
        lengths = [len(counter) for counter in counts]
        total = sum(lengths)
        record_E = np.repeat(np.arange(len(counts), dtype=np.int32), lengths)
        word_E = np.fromiter((self._words[word] for counter in counts for word in counter), np.int32, total)
        times_E = np.fromiter((times for counter in counts for times in counter.values()), np.float64, total)
        documents_W = np.bincount(word_E, minlength=len(self._words))
        self._rarity_W = 1 + np.log((1 + len(counts)) / (1 + documents_W))
        weight_E = (1 + np.log(times_E)) * self._rarity_W[word_E]
        norm_R = np.sqrt(np.bincount(record_E, weight_E**2, minlength=len(counts)))
        weight_E /= norm_R[record_E]
        order = np.argsort(word_E, kind="stable")
        self._posting_records, self._posting_weights = record_E[order], weight_E[order]
        self._starts = np.concatenate([[0], np.cumsum(documents_W)])

    def output(self, source: str) -> str:
        """The target of the nearest train record."""
        return self._targets[self.nearest(source)]

    def nearest(self, source: str) -> int:
        """Position of the train record whose source is most like `source`."""
        score_R = np.zeros(len(self._targets))
        for word, times in Counter(unicode_words(source)).items():
            known = self._words.get(word)
            if known is not None:
                span = slice(self._starts[known], self._starts[known + 1])
                weight = (1 + np.log(times)) * self._rarity_W[known]
                score_R[self._posting_records[span]] += weight * self._posting_weights[span]
        return int(np.argmax(score_R))


def baselines_of(train: Sequence[Record], prefix: str = "") -> dict[str, Generator]:
    """All baselines by name: `lead1`, `first_words` and `nearest_neighbour`, the latter two fitted on `train`. They do
    not see the `prefix` of the sources."""
    systems: list[_Weightless] = [Lead1(), FirstWords.of_train(train), NearestNeighbour(train)]
    for system in systems:
        system.prefix = prefix
    return {system.name: system for system in systems}
