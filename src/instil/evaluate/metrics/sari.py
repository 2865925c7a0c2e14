"""SARI: what a simplification rightly adds, keeps and deletes (Xu et al. 2016, TACL 4; doi 10.1162/tacl_a_00107).

n-grams of 1 to 4 words, each counted by how many references agree; F1 of adding and keeping but precision alone of
deleting. As in tensor2tensor and `evaluate`, and unlike the authors' program, recall of keeping is over all votes, and
an operation that nothing calls for counts as done right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from instil.evaluate.metric import Metric
from instil.evaluate.outputs import ScoredOutput

_ORDERS = (1, 2, 3, 4)
Grams = Counter[tuple[str, ...]]


def sari(nrefs: str) -> Metric:
    """The mean of the outputs' SARI in percent; words as BLEU's 13a rules find them, in lower case."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenizer = Tokenizer13a()

    def statistics(output: ScoredOutput) -> tuple[float, float]:
        texts = (output.source, output.output, *output.targets)
        source, written, *targets = (tokenizer(text.lower()).split() for text in texts)
        return 100 * sari_of(source, written, targets), 1.0

    signature = f"sari|nrefs:{nrefs}|case:lc|tok:13a|orders:1-4|delete:precision|keep:votes|0/0:1"
    return Metric(name="sari", unit="%", better="higher", signature=signature, statistics=statistics)


def sari_of(source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """SARI of one output, between 0 and 1; all texts as words."""
    return sum(_of_order(n, source, output, references) for n in _ORDERS) / len(_ORDERS)


def _of_order(n: int, source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean of the three operations for n-grams of one length.

    Source and output count as often as there are references, so that each reference has one vote.
    """
    agreed = sum((_grams(reference, n) for reference in references), Grams())
    before = _times(_grams(source, n), len(references))
    after = _times(_grams(output, n), len(references))
    keep = _keep(before & after, before & agreed, agreed)
    deleted, right = before - after, (before - after) - agreed
    delete = _mean_share(right, deleted)
    added, wanted = set(after) - set(before), set(agreed) - set(before)
    hits = len(added & wanted)
    return (keep + delete + _f1(_ratio(hits, len(added)), _ratio(hits, len(wanted)))) / 3


def _keep(kept: Grams, keepable: Grams, agreed: Grams) -> float:
    """F1 of keeping: precision is a mean over the kept n-grams, recall over the votes for all that was to be kept."""
    right = kept & agreed
    return _f1(_mean_share(right, kept), _ratio(right.total(), keepable.total()))


def _mean_share(right: Grams, of: Grams) -> float:
    """The mean over the n-grams `of` of the share that was right; 1 where there is none, so nothing was wrong."""
    return sum(count / of[gram] for gram, count in right.items()) / len(of) if of else 1.0


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _grams(words: Sequence[str], n: int) -> Grams:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _times(grams: Grams, factor: int) -> Grams:
    return Counter({gram: count * factor for gram, count in grams.items()})
