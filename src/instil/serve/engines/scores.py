"""The probability of each token of a text, from a model's log probabilities at its places.

Shapes: T places that predict a token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from instil.serve.jobs import TokenScore


def token_scores(
    log_probs_TV: Tensor, ids: Sequence[int], first: int, top: int, tokenizer: Any
) -> tuple[TokenScore, ...]:
    """Scores of `ids` from place `first` on, each with the `top` likeliest tokens at its place.

    `log_probs_TV[t]` predicts `ids[t + 1]`; nothing predicts `ids[0]`.
    """

    def text(token: int) -> str:
        return str(tokenizer.decode([token]))

    found = []
    for place in range(first, len(ids)):
        if place == 0:
            found.append(TokenScore(text(ids[0]), None, {}))
            continue
        row_V = log_probs_TV[place - 1]
        best = row_V.topk(top)
        likeliest: dict[str, float] = {}
        for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            likeliest.setdefault(text(token), value)  # Parts of characters look alike; the likelier one counts.
        found.append(TokenScore(text(ids[place]), float(row_V[ids[place]]), likeliest))
    return tuple(found)
