"""What judges found: win rates with intervals, how far judges agree, and whether the side decided.

K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011: 1 is perfect agreement, 0 that of chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from pydantic import BaseModel, ConfigDict

from instil.evaluate.judgement import Answer
from instil.evaluate.significance import Interval, mean_interval, paired_p_value


class Preference(BaseModel):
    """How often `first` was preferred to `second`: a tie is half a win, and judges of one pair count together.

    `win_rate`: a share with its interval over pairs; `p_value`: that of no preference, by approximate randomisation.
    `alpha`: None where no pair has two judges, or where all said the same, of which it defines nothing. `left`: the
    share of the answers, ties aside, that chose the left side; far from a half, the side decided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    second: str
    pairs: int
    answers: int
    judges: int
    wins: int
    ties: int
    losses: int
    win_rate: Interval
    p_value: float
    alpha: float | None
    left: Interval | None
    median_seconds: float | None


def preferences(answers: Sequence[Answer], *, seed: int = 0) -> list[Preference]:
    """One for each two systems that were held against each other; none without answers."""

    def systems(answer: Answer) -> tuple[str, str]:
        return answer.first, answer.second

    return [_preference(list(group), seed) for _, group in groupby(sorted(answers, key=systems), key=systems)]


def _preference(answers: Sequence[Answer], seed: int) -> Preference:
    by_pair: dict[int, list[float]] = defaultdict(list)
    for answer in answers:
        by_pair[answer.pair].append(_value(answer))
    rates = np.array([np.mean(values) for values in by_pair.values()])
    sides = [float(answer.choice == "left") for answer in answers if answer.choice != "tie"]
    times = [answer.seconds for answer in answers if answer.seconds is not None]
    return Preference(
        first=answers[0].first,
        second=answers[0].second,
        pairs=len(by_pair),
        answers=len(answers),
        judges=len({answer.judge for answer in answers}),
        wins=sum(_value(answer) == 1 for answer in answers),
        ties=sum(answer.winner is None for answer in answers),
        losses=sum(_value(answer) == 0 for answer in answers),
        win_rate=mean_interval(rates, seed=seed),
        p_value=paired_p_value(rates, 1 - rates, seed=seed),
        alpha=alpha(answers),
        left=mean_interval(sides, seed=seed) if sides else None,
        median_seconds=float(np.median(times)) if times else None,
    )


def _value(answer: Answer) -> float:
    return 0.5 if answer.winner is None else float(answer.winner == answer.first)


def alpha(answers: Sequence[Answer]) -> float | None:
    """Krippendorff's alpha of the answers to pairs that several judges saw; a tie lies between the two systems."""
    import krippendorff

    pairs = sorted({answer.pair for answer in answers})
    judges = sorted({answer.judge for answer in answers})
    table = np.full((len(judges), len(pairs)), np.nan)
    for answer in answers:
        table[judges.index(answer.judge), pairs.index(answer.pair)] = _value(answer)
    table = table[:, (~np.isnan(table)).sum(axis=0) > 1]
    if len(np.unique(table[~np.isnan(table)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal"))
