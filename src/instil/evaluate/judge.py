"""A model as judge: which of two outputs is better? Each pair is asked twice, the second time with sides swapped.

Models prefer a side (Zheng et al. 2023, arXiv 2306.05685), so one order alone says little: a win is one of both orders,
and how often the two agree is told beside it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel, ConfigDict

from instil.core.fingerprint import fingerprint
from instil.evaluate.agreement import Preference, preferences
from instil.evaluate.judgement import QUESTION, Answer, Choice, Pair
from instil.evaluate.significance import Interval, mean_interval
from instil.models.remote import chat_text
from instil.models.served import Endpoint

TEMPLATE = """{question}

Source:
{source}

Answer A:
{left}

Answer B:
{right}

Which is better? The order means nothing. Say "A", "B", or "tie" if neither is."""
_CHOICES: Mapping[str, Choice] = {"a": "left", "b": "right", "tie": "tie"}
_SCHEMA = {
    "type": "object",
    "properties": {"better": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["better"],
    "additionalProperties": False,
}
_FORM = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": _SCHEMA}}
_SLOT = re.compile(r"\{(question|source|reference|left|right)\}")
_FOUND = re.compile(r'"better"\s*:\s*"(A|B|tie)"|\b(A|B|[Tt]ie)\b')


class Judged(BaseModel):
    """What a model found. `agreement`: the share of pairs of which it said the same in both orders, with its interval;
    None where no pair has two answers. `unreadable`: answers that named none of the three."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: str
    signature: str
    preferences: tuple[Preference, ...]
    agreement: Interval | None
    unreadable: int


def judge_pairs(
    endpoint: Endpoint,
    pairs: Mapping[int, Pair],
    *,
    question: str = QUESTION,
    template: str = TEMPLATE,
    structured: bool = True,
    max_tokens: int = 64,
    seed: int = 0,
    done: Callable[[int], object] | None = None,
) -> Judged:
    """Asks the endpoint's model about every pair in both orders.

    `template` may name {question}, {source}, {reference}, {left} and {right}. `structured` has the server hold the
    answer to a JSON form; switch it off for one that knows none. `done` is told how many answers there are. Raises
    `ModelError` where the server fails.
    """
    form: dict[str, Any] = {"response_format": _FORM} if structured else {}
    asked = [(number, pair, swapped) for number, pair in pairs.items() for swapped in (False, True)]

    def ask(one: tuple[int, Pair, bool]) -> Answer | None:
        number, pair, swapped = one
        text = _filled(template, pair, question, swapped=swapped)
        return _answer(number, pair, _choice(chat_text(endpoint, text, max_tokens=max_tokens, **form)), swapped=swapped)

    answers: list[Answer | None] = []
    with ThreadPoolExecutor(endpoint.config.concurrency) as pool:
        for answer in pool.map(ask, asked):
            answers.append(answer)
            if done:
                done(len(answers))
    readable = [answer for answer in answers if answer]
    how = fingerprint(question, template)[:8]
    return Judged(
        judge=endpoint.model, signature=f"judge|orders:both|model:{endpoint.model}|T:0|prompt:{how}",
        preferences=tuple(preferences(readable, seed=seed)), agreement=_agreement(readable, seed),
        unreadable=len(answers) - len(readable),
    )  # fmt: skip


def _filled(template: str, pair: Pair, question: str, *, swapped: bool) -> str:
    outputs = (pair.first_output, pair.second_output)
    left, right = outputs[::-1] if swapped else outputs
    values = {"question": question, "source": pair.source, "reference": pair.reference, "left": left, "right": right}
    # In one pass, so that a text with {left} in it stays as it is.
    return _SLOT.sub(lambda found: values[found[1]], template)


def _choice(text: str) -> Choice | None:
    """The last verdict in `text`: a model that thinks aloud says it at the end."""
    found = [structured or plain for structured, plain in _FOUND.findall(text)]
    return _CHOICES[found[-1].lower()] if found else None


def _answer(number: int, pair: Pair, choice: Choice | None, *, swapped: bool) -> Answer | None:
    if choice is None:
        return None
    systems = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    winner = None if choice == "tie" else systems[choice == "right"]
    return Answer(
        pair=number, record=pair.record, first=pair.first, second=pair.second, choice=choice, winner=winner,
        judge="swapped" if swapped else "in order", seconds=None, remark="", at="",
    )  # fmt: skip


def _agreement(answers: Sequence[Answer], seed: int) -> Interval | None:
    winners: dict[int, list[str | None]] = defaultdict(list)
    for answer in answers:
        winners[answer.pair].append(answer.winner)
    same = [float(both[0] == both[1]) for both in winners.values() if len(both) == 2]
    return mean_interval(same, seed=seed) if same else None
