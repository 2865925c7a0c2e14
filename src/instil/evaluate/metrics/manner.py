"""How an output is written, whatever it says: how long, and how often it repeats itself."""

from __future__ import annotations

from instil.evaluate.metric import Metric
from instil.evaluate.metrics.source import ngrams
from instil.evaluate.outputs import ScoredOutput
from instil.evaluate.words import unicode_words

REPEATED = 4


def length_ratio() -> Metric:
    """Words of all outputs over words of all first references: 1 is as long as these."""

    def statistics(output: ScoredOutput) -> tuple[float, float]:
        return float(len(unicode_words(output.output))), float(len(unicode_words(output.targets[0])))

    return Metric(
        name="length_ratio", unit="ratio", better="neither", signature="length_ratio|of:first reference|words:unicode",
        statistics=statistics,
    )  # fmt: skip


def repetition() -> Metric:
    """The share of runs of `REPEATED` words that the same output has had before (Welleck et al. 2020, arXiv
    1908.04319)."""

    def statistics(output: ScoredOutput) -> tuple[float, float]:
        found = ngrams(unicode_words(output.output), REPEATED)
        return 100.0 * (len(found) - len(set(found))), float(len(found))

    return Metric(
        name="repetition", unit="%", better="lower", signature=f"repetition|words:unicode|run:{REPEATED}",
        statistics=statistics,
    )  # fmt: skip
