"""Section `evaluate`: what is measured."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import NonNegativeInt, PositiveInt, field_validator, model_validator

from instil.core.config import Config
from instil.evaluate.config import DEFAULT_METRICS, MetricName


class EvaluateConfig(Config):
    """What is measured: the first `items` of `split` (all when not given), outputs of at most `max_new_tokens` by beam
    search over `beams`, latency over `latency_items` of them.

    `metrics`: what the outputs are judged by, beside ROUGE-1, -2 and -L, which always are (docs/metrics.md).
    `answer`: the pattern whose last match in a text, or that match's first group, is its answer, for `accuracy`.
    `embedder`: the folder of a model on this machine that `embedding_similarity` reads texts with.
    `fidelity_items`: examples whose targets teacher and students read, for their loss, calibration and how near they
    are to each other; 0 for none.
    """

    split: Literal["validation", "test"] = "test"
    items: PositiveInt | None = None
    max_new_tokens: PositiveInt = 128
    beams: PositiveInt = 1
    batch_size: PositiveInt = 16
    latency_items: PositiveInt = 30
    metrics: tuple[MetricName, ...] = DEFAULT_METRICS
    answer: str | None = None
    embedder: str | None = None
    fidelity_items: NonNegativeInt = 50

    @field_validator("answer")
    @classmethod
    def _is_a_pattern(cls, answer: str | None) -> str | None:
        try:
            re.compile(answer or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return answer

    @model_validator(mode="after")
    def _what_metrics_need(self) -> Self:
        if "accuracy" in self.metrics and self.answer is None:
            raise ValueError(
                "accuracy needs a pattern that finds the answer in a text; set answer, for example"
                r" answer: 'answer is (\S+)', or measure exact_match"
            )
        if "embedding_similarity" in self.metrics and self.embedder is None:
            raise ValueError("embedding_similarity needs a model; set embedder to the folder of one")
        return self
