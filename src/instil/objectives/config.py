"""What a recipe may say about the objective. No torch here, so that recipes read fast."""

from __future__ import annotations

from typing import Literal, get_args

FeatureLoss = Literal["mse", "cosine"]
Weighing = Literal["even", "sure", "unsure"]
"""Whether rows count by the probability of the teacher's first choice, by what it leaves to others, or all alike."""

Divergence = Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation"]
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
