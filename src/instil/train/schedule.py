"""Learning rate as a function of progress through the budget, so that any kind of budget has the same schedule."""

from __future__ import annotations

import math
from typing import Literal

Decay = Literal["linear", "cosine", "constant"]


def rate_factor(progress: float, *, warmup: float, decay: Decay) -> float:
    """Factor in [0, 1] on the peak rate at `progress` in [0, 1]: linear warm-up over `warmup`, then the decay to 0."""
    if progress < warmup:
        return max(progress, 1e-3 * warmup) / warmup
    rest = min(1.0, (progress - warmup) / (1 - warmup))
    match decay:
        case "linear":
            return 1 - rest
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * rest))
        case "constant":
            return 1.0
