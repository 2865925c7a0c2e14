"""The names of metrics, as a recipe gives them."""

from __future__ import annotations

from typing import Literal

MetricName = Literal[
    "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf", "exact_match", "accuracy", "sari",
    "embedding_similarity", "length_ratio", "repetition", "copy_rate", "novel_1grams", "novel_2grams", "novel_3grams",
    "unsupported_numbers", "unsupported_names",
]  # fmt: skip

DEFAULT_METRICS: tuple[MetricName, ...] = (
    "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf", "exact_match", "length_ratio", "repetition", "copy_rate",
    "novel_2grams", "unsupported_numbers", "unsupported_names",
)  # fmt: skip
"""What is measured where nobody chose: all that needs neither a pattern nor a model."""
