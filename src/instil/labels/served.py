"""A labeller behind a server: what an OpenAI-compatible completions endpoint tells of its model's distribution.

The head is what the server lists, the tail is the rest, in one cell. Which of two ways it knows shows its first answer:

scored    it lists candidates for each token of a prompt (vLLM's `prompt_logprobs`): one request an example.
ahead     it lists candidates, with their ids, for tokens that it writes (`logprobs`, as llama.cpp does). The model goes
          on behind the first tokens of the target; every token that it writes like the target, and the first that it
          writes otherwise, gives a row. It is asked for twice as many tokens after each request that was right
          throughout, and for one after a mismatch: log2 requests for its own texts, one for each mismatch in others.
          llama.cpp leaves tokens that end inside a character out of its list. An answer that lists fewer than it
          counts is not used, since nobody can tell which are missing; one token is asked for instead, and where that
          is such a one, a `plain` token is forced, whose candidates are those of the model all the same.

Answers are put aside one by one, so a killed run pays for none twice.
"""

from __future__ import annotations

import json
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from instil.core.errors import InstilError, LabelError, storage_error
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.draw import in_units
from instil.labels.shard import Columns
from instil.labels.teacher import Labelled
from instil.models.served import Endpoint, Reply

Candidates = list[tuple[int, float]]
"""Ids and log-probabilities of a row, most probable first."""
_TOKEN_ID = "token_id:"
_WITH_IDS: Mapping[str, Any] = {"return_tokens_as_token_ids": True}
"""How vLLM is asked for ids in place of texts; others pass over it."""


@dataclass(slots=True, kw_only=True)
class Answers:
    """All rows of one example, and what they cost."""

    id: str
    rows: list[Candidates]
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def count(self, reply: Reply) -> None:
        """Adds a request's cost."""
        self.requests += 1
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens


@dataclass(kw_only=True)
class ServedTeacher:
    """A labeller: the model at `endpoint`, of `vocabulary` ids, of which `plain` is some whole word or letter."""

    endpoint: Endpoint
    vocabulary: int
    plain: int

    def label(
        self, examples: Sequence[Encoded], codec: Codec, *, aside: Path, advance: Callable[[int], None]
    ) -> Labelled:
        """Labels of `examples`, whose answers so far stand in `aside`, a JSON line each. Sums also count `requests`,
        `input_tokens`, `output_tokens`, `usd`, and targets that the server did not list (`unlisted`)."""
        if codec.draws or codec.temperatures != (1.0,):
            raise LabelError("a served teacher tells its first ids at temperature 1 alone; set labels.head, no others")
        found = _read_answers(aside)
        missing = [example for example in examples if example.id not in found]
        advance(len(examples) - len(missing))
        if missing:
            self._ask_all(missing, codec.head, found, aside, advance)
        return self._labelled([found[example.id] for example in examples], examples, codec)

    def score(self, examples: Sequence[Encoded], most: int) -> tuple[Tensor, Tensor]:
        """The first `most` ids of each row of `examples`, in their order, and their probabilities, both `(N, most)`; -1
        where a row has fewer. Nothing is put aside: what a student writes comes but once."""
        found = {answers.id: answers.rows for answers in self._answers(self._way, examples, most)}
        rows = [row[:most] for example in examples for row in found[example.id]]
        self._require_known(rows)
        ids_NK = torch.full((len(rows), most), -1)
        for number, row in enumerate(rows):
            ids_NK[number, : len(row)] = torch.tensor([token for token, _ in row])
        probs_NK = _probabilities(rows)
        return ids_NK, nn.functional.pad(probs_NK, (0, most - probs_NK.shape[1]))

    def _ask_all(
        self, examples: Sequence[Encoded], most: int, found: dict[str, Answers], aside: Path,
        advance: Callable[[int], None],
    ) -> None:  # fmt: skip
        way = self._way
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            torn = aside.is_file() and aside.read_bytes()[-1:] not in (b"", b"\n")
            with aside.open("a", encoding="utf8") as journal:
                if torn:
                    journal.write("\n")  # Or the first answer would be a part of a line that nobody can read.
                for answers in self._answers(way, examples, most):
                    journal.write(json.dumps(asdict(answers)) + "\n")
                    journal.flush()
                    found[answers.id] = answers
                    advance(len(found))
        except OSError as error:
            raise storage_error(error, aside) from error

    def _answers(
        self, way: Callable[[Encoded, int], Answers], examples: Sequence[Encoded], most: int
    ) -> Iterator[Answers]:
        """Answers as they come. After a refusal, those that are under way are waited for: they are paid for too."""
        refusal: InstilError | None = None
        stop = threading.Event()
        with ThreadPoolExecutor(self.endpoint.config.concurrency) as pool:
            futures = [pool.submit(lambda each: None if stop.is_set() else way(each, most), one) for one in examples]
            try:
                for future in as_completed(futures):
                    try:
                        answers = future.result()
                    except InstilError as error:
                        refusal = refusal or error
                        stop.set()
                        continue
                    if answers:
                        yield answers
            finally:
                stop.set()
        if refusal:
            raise refusal

    @cached_property
    def _way(self) -> Callable[[Encoded, int], Answers]:
        reply = self.endpoint.complete(
            [self.plain] * 2, max_tokens=1, logprobs=1, prompt_logprobs=1, **_WITH_IDS, **self._forced
        )
        if reply.choices[0].get("prompt_logprobs"):
            return self._scored
        if _written(reply):
            return self._ahead
        raise LabelError(
            f"{self.endpoint.config.url}: names no token ids in its logprobs, so nobody can tell which ids they are;"
            " serve the teacher with vLLM or llama.cpp, or learn from its texts alone: labels.targets: teacher and"
            " distil.alpha: 0"
        )

    @property
    def _forced(self) -> Mapping[str, Any]:
        return {"logit_bias": {str(self.plain): 100}}

    def _scored(self, example: Encoded, most: int) -> Answers:
        """Answers of a server that scores prompts."""
        answers = Answers(id=example.id, rows=[])
        prompt, target = example.prompt_ids, example.target_ids
        reply = self.endpoint.complete([*prompt, *target], max_tokens=1, prompt_logprobs=most)
        answers.count(reply)
        listed = reply.choices[0].get("prompt_logprobs") or []
        if len(listed) != len(prompt) + len(target):
            url = self.endpoint.config.url
            raise LabelError(f"{url}: scored {len(listed)} tokens of record {example.id!r}, not all of its prompt")
        for row in listed[len(prompt) :]:
            answers.rows.append(_falling((token, entry["logprob"]) for token, entry in row.items()))
        return answers

    def _ahead(self, example: Encoded, most: int) -> Answers:
        """Answers of a server that lists candidates for what it writes."""
        answers = Answers(id=example.id, rows=[])
        rows, target, asked = answers.rows, example.target_ids, 1
        while len(rows) < len(target):
            asked = min(asked, len(target) - len(rows))
            written = self._next(example, len(rows), asked, most, answers)
            asked = asked * 2 if written else 1
            for token, candidates in written or self._next(example, len(rows), 1, most, answers, **self._forced):
                rows.append(candidates)
                if token != target[len(rows) - 1]:
                    asked = 1
                    break
        return answers

    def _next(
        self, example: Encoded, known: int, asked: int, most: int, answers: Answers, **more: Any
    ) -> list[tuple[int, Candidates]]:
        """What the model writes behind the first `known` tokens of the target; empty where the list has gaps."""
        before = [*example.prompt_ids, *example.target_ids[:known]]
        reply = self.endpoint.complete(before, max_tokens=asked, logprobs=most, **_WITH_IDS, **more)
        answers.count(reply)
        written = _written(reply)
        if more and not written:
            raise LabelError(
                f"{self.endpoint.config.url}: lists nothing for token {known + 1} of record {example.id!r};"
                " check what it serves"
            )
        return written if len(written) == reply.output_tokens else []

    def _labelled(self, answers: Sequence[Answers], examples: Sequence[Encoded], codec: Codec) -> Labelled:
        told = [row for each in answers for row in each.rows]
        rows = [row[: codec.head] for row in told]  # A server that scores prompts lists the target beside its first.
        targets = [token for example in examples for token in example.target_ids]
        self._require_known(rows)
        columns = _columns(rows, codec)
        sums = _sums(told, targets, codec.head) | {"head_mass": float(columns.masses_H.sum()) / codec.unit}
        for name in ("requests", "input_tokens", "output_tokens"):
            sums[name] = float(sum(getattr(each, name) for each in answers))
        prices = self.endpoint.config
        sums["usd"] = 1e-6 * (
            sums["input_tokens"] * prices.usd_per_million_input + sums["output_tokens"] * prices.usd_per_million_output
        )
        return Labelled(columns=[columns], sums=sums)

    def _require_known(self, rows: Sequence[Candidates]) -> None:
        if (highest := max((token for row in rows for token, _ in row), default=0)) >= self.vocabulary:
            raise LabelError(
                f"{self.endpoint.config.url}: lists id {highest}, but the tokenizer of teacher.model has"
                f" {self.vocabulary}; name the model that is served in teacher.model"
            )


def _written(reply: Reply) -> list[tuple[int, Candidates]]:
    """The ids that were written, each with its candidates; empty where the server names no ids."""
    listed = reply.choices[0].get("logprobs") or {}
    with suppress(KeyError, TypeError, ValueError):
        if "content" in listed:
            return [
                (token["id"], _falling((each["id"], each["logprob"]) for each in token["top_logprobs"]))
                for token in listed["content"]
            ]
        return [
            (_id(token), _falling((_id(each), value) for each, value in row.items()))
            for token, row in zip(listed["tokens"], listed["top_logprobs"], strict=True)
        ]
    return []


def _id(token: str) -> int:
    if not token.startswith(_TOKEN_ID):
        raise ValueError(token)
    return int(token.removeprefix(_TOKEN_ID))


def _falling(entries: Any) -> Candidates:
    return sorted(((int(token), float(value)) for token, value in entries), key=lambda entry: (-entry[1], entry[0]))


def _read_answers(aside: Path) -> dict[str, Answers]:
    """The answers of an earlier run; a line that a kill cut short is left out."""
    found = {}
    if aside.is_file():
        for line in aside.read_text(encoding="utf8").splitlines():
            with suppress(ValueError, TypeError):
                answers = Answers(**json.loads(line))
                answers.rows = [_falling(row) for row in answers.rows]
                found[answers.id] = answers
    return found


def _columns(rows: Sequence[Candidates], codec: Codec) -> Columns:
    counts_R = np.array([len(row) for row in rows], np.uint32)
    masses_RK = in_units(_probabilities(rows), codec.unit).numpy().astype(np.uint32)
    used_RK = np.arange(masses_RK.shape[1]) < counts_R[:, None]
    return Columns(
        heads_R=counts_R, draws_R=np.zeros_like(counts_R), masses_H=masses_RK[used_RK],
        ids_H=np.array([token for row in rows for token, _ in row], np.uint32), drawn_S=np.zeros(0, np.uint32),
    )  # fmt: skip


def _probabilities(rows: Sequence[Candidates]) -> Tensor:
    """The probabilities of each row, `(R, K)` for the longest one's K."""
    probs_RK = torch.zeros(len(rows), max((len(row) for row in rows), default=0))
    for number, row in enumerate(rows):
        probs_RK[number, : len(row)] = torch.tensor([value for _, value in row], dtype=torch.float64).exp().float()
    # Servers round; a head never holds more than all.
    return probs_RK / probs_RK.sum(-1, keepdim=True).clamp_min(1)


def _sums(rows: Sequence[Candidates], targets: Sequence[int], head: int) -> dict[str, float]:
    """What is known of the rows. A target that is not listed has no more than the least that is, nor than the rest:
    its loss is at least that."""
    sums: dict[str, float] = defaultdict(float)
    for row, target in zip(rows, targets, strict=True):
        listed = dict(row)
        sums["rows"] += 1
        sums["heads"] += min(len(row), head)
        sums["agree"] += row[0][0] == target
        sums["found"] += target in dict(row[:head])
        if target in listed:
            sums["loss"] -= listed[target]
        else:
            rest = 1 - sum(math.exp(value) for _, value in row)
            sums["unlisted"] += 1
            sums["loss"] -= min(row[-1][1], math.log(max(rest, 1e-9)))
    return sums | {"drawn": 0.0}
