"""ROUGE-1, -2, -L and -Lsum (sentences by line): F1 x 100 by `rouge-score`, against the best of several references.

C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004. Scores an item are kept, so that intervals
and paired tests reuse them; a signature in the manner of sacrebleu (Post 2018, arXiv 1804.08771) says how they came.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from instil.core.errors import ConfigError, DataError
from instil.evaluate.words import unicode_words

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
Tokenizer = Literal["rouge-score", "unicode"]
"""`rouge-score`: its own, which keeps a-z and 0-9 only, then the Porter stemmer. `unicode`: words of any script,
each Chinese, Japanese or Thai character a word, no stemmer."""

_FOREIGN_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Scores:
    """ROUGE of one output: F1 in percent, each against the reference where it is highest."""

    rouge1: float
    rouge2: float
    rougeL: float
    rougeLsum: float


class _UnicodeTokenizer:
    """What `rouge_score` expects of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return unicode_words(text)


def tokenizer_for(texts: Iterable[str]) -> Tokenizer:
    """`unicode` where more than 1% of the letters in `texts` are outside a-z, which `rouge-score` would drop."""
    letters = foreign = 0
    for text in texts:
        letters += sum(map(str.isalpha, text))
        foreign += 0 if text.isascii() else sum(c.isalpha() and not c.isascii() for c in text)
    return "unicode" if foreign > _FOREIGN_SHARE * letters else "rouge-score"


class Rouge:
    """Scores outputs. Building one loads `rouge_score` (nltk), so do it where it is used."""

    def __init__(self, *, tokenizer: Tokenizer = "rouge-score") -> None:
        """Raises `ConfigError` for another `tokenizer` than `rouge-score` and `unicode`."""
        if tokenizer not in get_args(Tokenizer):
            raise ConfigError(f"ROUGE tokenizer is {tokenizer!r}; choose one of {', '.join(get_args(Tokenizer))}")
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        self.tokenizer: Tokenizer = tokenizer
        own = DefaultTokenizer(use_stemmer=True) if tokenizer == "rouge-score" else _UnicodeTokenizer()
        self._scorer = RougeScorer(list(METRICS), tokenizer=own)

    def score(self, output: str, targets: Sequence[str]) -> Scores:
        """ROUGE of `output` against the best of `targets`, metric by metric. Raises `DataError` without a target."""
        if not targets:
            raise DataError("an item has no reference to score against; give every record at least one target")
        best = self._scorer.score_multi(targets, output)
        return Scores(**{metric: 100.0 * best[metric].fmeasure for metric in METRICS})

    def signature(self, metric: str, references: Iterable[int]) -> str:
        """How `metric` was counted; `references` are the numbers of targets that occur (several give `nrefs:var`)."""
        counts = set(references)
        nrefs = str(counts.pop()) if len(counts) == 1 else "var"
        stem = "yes" if self.tokenizer == "rouge-score" else "no"
        version = importlib.metadata.version("rouge-score")
        return f"{metric}|nrefs:{nrefs}|stem:{stem}|refs:best|case:lc|tok:{self.tokenizer}|version:{version}"
