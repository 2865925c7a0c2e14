"""How much of the references an output hits: ROUGE, exact match, and accuracy of the answer that a pattern finds."""

from __future__ import annotations

import re
import unicodedata

from instil.evaluate.metric import Metric
from instil.evaluate.outputs import ScoredOutput
from instil.evaluate.rouge import Rouge

_DIGITS_APART = re.compile(r"(?<=\d),(?=\d{3}\b)")


def rouge_metric(name: str, rouge: Rouge, nrefs: set[int]) -> Metric:
    """ROUGE `name`, as it stands in each scored output; `nrefs` are the numbers of targets that occur."""
    return Metric(
        name=name, unit="%", better="higher", signature=rouge.signature(name, nrefs),
        statistics=lambda output: (getattr(output, name), 1.0),
    )  # fmt: skip


def exact_match(nrefs: str) -> Metric:
    """The share of outputs that are one of their references, but for white space."""
    return Metric(
        name="exact_match", unit="%", better="higher",
        signature=f"exact_match|nrefs:{nrefs}|case:mixed|space:collapsed",
        statistics=lambda output: (100.0 * (output.output.split() in map(str.split, output.targets)), 1.0),
    )  # fmt: skip


def accuracy(nrefs: str, pattern: re.Pattern[str]) -> Metric:
    """The share of outputs whose answer is that of a reference. An answer is the last match of `pattern`, or its first
    group where it has one; of a reference without a match, the whole text. Case, white space and the commas of 1,000
    do not count. An output without a match is wrong."""

    def answer(text: str) -> str:
        return _plain(_last_match(pattern, text) or "")

    def statistics(output: ScoredOutput) -> tuple[float, float]:
        found = answer(output.output)
        wanted = {answer(target) or _plain(target) for target in output.targets}
        return 100.0 * (found != "" and found in wanted), 1.0

    return Metric(
        name="accuracy", unit="%", better="higher",
        signature=f"accuracy|nrefs:{nrefs}|case:lc|answer:last|pattern:{pattern.pattern}", statistics=statistics,
    )  # fmt: skip


def _last_match(pattern: re.Pattern[str], text: str) -> str | None:
    matches = list(pattern.finditer(text))
    return matches[-1][1 if pattern.groups else 0] if matches else None


def _plain(text: str) -> str:
    return _DIGITS_APART.sub("", " ".join(unicodedata.normalize("NFKC", text).casefold().split()))
