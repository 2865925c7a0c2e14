"""What a recipe may say about the objective. No torch here, so that recipes read fast."""

from __future__ import annotations

from typing import Literal, get_args

FeatureLoss = Literal["mse", "cosine"]
Feature = Literal["states", "embeddings", "attention", "values", "queries", "keys"]
"""What a layer gives; what enters the first one; attention weights; or relations within values, queries or keys."""
FeaturePlace = Literal["decoder", "encoder", "cross"]
"""The decoder's layers, the encoder's, or what the decoder's layers look up in the encoder."""
Weighing = Literal["even", "sure", "unsure"]
"""Whether rows count by the probability of the teacher's first choice, by what it leaves to others, or all alike."""
Tokens = Literal["same", "aligned"]
"""Whether the student has the teacher's tokens, or its rows are to meet the teacher's where both have read as much."""
Difficulty = Literal["loss", "entropy"]
"""What makes an example hard: what the teacher loses on its target, or how undecided it is there."""

Divergence = Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation"]
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
