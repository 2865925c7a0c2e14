"""The names of metrics, as a recipe gives them."""

from __future__ import annotations

from typing import Literal

MetricName = Literal["rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf", "exact_match", "accuracy"]

DEFAULT_METRICS: tuple[MetricName, ...] = (
    "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf", "exact_match",
)  # fmt: skip
"""What is measured where nobody chose: all that needs neither a pattern nor a model."""
