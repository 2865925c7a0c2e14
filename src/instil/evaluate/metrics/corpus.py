"""BLEU and chrF of a whole corpus by sacrebleu (Post 2018, arXiv 1804.08771), resampled by its own statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from instil.evaluate.metric import Metric, Value
from instil.evaluate.outputs import ScoredOutput
from instil.evaluate.significance import Floats

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as Sacre

Tokenizer = Literal["13a", "char"]
"""Of BLEU. `char` is for scripts that put no spaces between words."""


def bleu(nrefs: str, tokenizer: Tokenizer) -> Metric:
    """Corpus BLEU in percent."""
    from sacrebleu.metrics.bleu import BLEU

    return _metric("bleu", BLEU(tokenize=tokenizer), nrefs, bleu_of)


def chrf(nrefs: str) -> Metric:
    """Corpus chrF2 in percent."""
    from sacrebleu.metrics.chrf import CHRF

    return _metric("chrf", CHRF(), nrefs, chrf_of)


def _metric(name: str, sacre: Sacre, nrefs: str, value: Value) -> Metric:
    def statistics(output: ScoredOutput) -> Sequence[float]:
        # What `corpus_score` does with each segment, before it adds up.
        text, *targets = (sacre._preprocess_segment(each) for each in (output.output, *output.targets))
        return sacre._compute_segment_statistics(text, sacre._extract_reference_info(targets))

    sacre.num_refs = -1 if nrefs == "var" else int(nrefs)
    signature = f"{name}|{sacre.get_signature().format()}"
    return Metric(name=name, unit="%", better="higher", signature=signature, statistics=statistics, value=value)


# A score is computed twice for each of thousands of rounds of a test, so not by a call of sacrebleu each; the tests
# hold these two against it.


def bleu_of(sums_RS: Floats) -> Floats:
    """BLEU of sums of lengths (output, reference), matches of 1 to 4 words, and n-grams of the output; exponential
    smoothing: the k-th order without a match counts 1 / 2^k of one."""
    sums_RS = np.rint(sums_RS)
    length_R, reference_R = sums_RS[:, 0], sums_RS[:, 1]
    matches_R4, all_R4 = sums_RS[:, 2:6], sums_RS[:, 6:10]
    defined_R = (all_R4 > 0).all(axis=1) & (matches_R4 > 0).any(axis=1)
    smooth_R4 = 0.5 ** np.cumsum(matches_R4 == 0, axis=1)
    precision_R4 = np.where(matches_R4 > 0, matches_R4, smooth_R4) / np.maximum(all_R4, 1)
    brevity_R = np.minimum(0, 1 - reference_R / np.maximum(length_R, 1))
    return np.where(defined_R, 100 * np.exp(brevity_R + np.log(precision_R4).mean(axis=1)), 0.0)


def chrf_of(sums_RS: Floats) -> Floats:
    """chrF2 of sums of n-grams of 1 to 6 characters: of the output, of the reference, and matches, order by order.
    Precision and recall are means over the orders that both texts have."""
    output_RO, reference_RO, match_RO = np.moveaxis(sums_RS.reshape(len(sums_RS), -1, 3), 2, 0)
    both_RO = (output_RO > 0) & (reference_RO > 0)
    orders_R = np.maximum(both_RO.sum(axis=1), 1)
    precision_R = (both_RO * match_RO / np.maximum(output_RO, 1)).sum(axis=1) / orders_R
    recall_R = (both_RO * match_RO / np.maximum(reference_RO, 1)).sum(axis=1) / orders_R
    weighted_R = 4 * precision_R + recall_R
    return 100 * 5 * precision_R * recall_R / np.where(weighted_R > 0, weighted_R, 1)
