"""Metrics by name, built for the records that they are to judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from instil.core.errors import ConfigError
from instil.evaluate.config import MetricName
from instil.evaluate.metric import Metric
from instil.evaluate.metrics import corpus, embedding, manner, overlap, sari, source
from instil.evaluate.rouge import Rouge
from instil.evaluate.words import is_unspaced

if TYPE_CHECKING:
    from instil.data.records import Record

_UNSPACED_SHARE = 0.1


@dataclass(frozen=True)
class Setting:
    """What metrics need to know: the records, the ROUGE that scored them, and what the user set: the pattern of an
    `answer`, and the folder of an `embedder`."""

    records: Sequence[Record]
    rouge: Rouge
    answer: str | None = None
    embedder: str | None = None

    @cached_property
    def counts(self) -> set[int]:
        """The numbers of targets that occur."""
        return {len(record.targets) for record in self.records}

    @property
    def nrefs(self) -> str:
        """The same as signatures say it."""
        return str(*self.counts) if len(self.counts) == 1 else "var"

    @property
    def bleu_tokenizer(self) -> corpus.Tokenizer:
        """Words, or characters where a tenth of the letters belong to scripts without spaces between words."""
        letters = [letter for record in self.records for letter in record.targets[0] if letter.isalpha()]
        return "char" if sum(map(is_unspaced, letters)) > _UNSPACED_SHARE * len(letters) else "13a"

    @property
    def pattern(self) -> re.Pattern[str]:
        """How answers are found. Raises `ConfigError` without one."""
        if self.answer is None:
            raise ConfigError("accuracy needs a pattern that finds the answer in a text; set evaluate.answer")
        return re.compile(self.answer)


BUILDERS: Mapping[MetricName, Callable[[Setting], Metric]] = {
    "rouge1": lambda s: overlap.rouge_metric("rouge1", s.rouge, s.counts),
    "rouge2": lambda s: overlap.rouge_metric("rouge2", s.rouge, s.counts),
    "rougeL": lambda s: overlap.rouge_metric("rougeL", s.rouge, s.counts),
    "rougeLsum": lambda s: overlap.rouge_metric("rougeLsum", s.rouge, s.counts),
    "bleu": lambda s: corpus.bleu(s.nrefs, s.bleu_tokenizer),
    "chrf": lambda s: corpus.chrf(s.nrefs),
    "exact_match": lambda s: overlap.exact_match(s.nrefs),
    "accuracy": lambda s: overlap.accuracy(s.nrefs, s.pattern),
    "sari": lambda s: sari.sari(s.nrefs),
    "embedding_similarity": lambda s: embedding.embedding_similarity(s.nrefs, s.embedder),
    "length_ratio": lambda s: manner.length_ratio(),
    "repetition": lambda s: manner.repetition(),
    "copy_rate": lambda s: source.copy_rate(),
    "novel_1grams": lambda s: source.novel_ngrams(1),
    "novel_2grams": lambda s: source.novel_ngrams(2),
    "novel_3grams": lambda s: source.novel_ngrams(3),
    "unsupported_numbers": lambda s: source.unsupported_numbers(),
    "unsupported_names": lambda s: source.unsupported_names(),
}
"""Every metric of texts by name."""


def choose(names: Sequence[MetricName], setting: Setting) -> list[Metric]:
    """The metrics of `names`, each once. Raises `ConfigError` for one that needs something which is not set."""
    return [BUILDERS[name](setting) for name in dict.fromkeys(names)]
