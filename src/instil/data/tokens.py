"""From records to token ids. The source is cut to fit, never the prompt around it, and every cut is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from instil.core.errors import DataError
from instil.data.prompts import Prompt
from instil.data.records import MAIN_TASK, Record

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

Kind = Literal["encoder-decoder", "decoder-only"]
_TOGETHER = 512


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training example: what the model reads, and what it is to write (ending with the end token unless cut).

    `prompt_ids` of an encoder-decoder model are its encoder's input. `target_ids` are never empty. `task` is the
    record's.
    """

    id: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    task: str = MAIN_TASK

    @property
    def length(self) -> int:
        """Tokens of prompt and target together."""
        return len(self.prompt_ids) + len(self.target_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The longest source and target, in tokens."""

    source: int
    target: int


@dataclass(slots=True)
class Truncation:
    """How many of the `examples` had their source or target cut."""

    examples: int = 0
    sources: int = 0
    targets: int = 0

    def __str__(self) -> str:
        def share(number: int) -> str:
            return f"{number} ({number / max(self.examples, 1):.1%})"

        return f"of {self.examples} examples, {share(self.sources)} sources and {share(self.targets)} targets were cut"


def cut_sources(tokenizer: PreTrainedTokenizerBase, sources: Sequence[str], limit: int) -> list[tuple[str, bool]]:
    """Each source within `limit` tokens, cut at a token's edge but never inside a character, and whether it was cut."""
    encoding = tokenizer(list(sources), add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    found = []
    for number, (source, ids) in enumerate(zip(sources, encoding["input_ids"], strict=True)):
        if len(ids) <= limit:
            found.append((source, False))
        elif not tokenizer.is_fast:
            found.append((str(tokenizer.decode(ids[:limit], skip_special_tokens=True)), True))
        else:
            # Tokens that share a character all name its whole span, so the next one's start is the edge.
            (_, end), (following, _) = encoding["offset_mapping"][number][limit - 1 : limit + 1]
            found.append((source[: min(end, following)], True))
    return found


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, sources: Sequence[str]) -> BatchEncoding:
    """What the tokenizer makes of the prompt around each source."""
    texts = [prompt.render(source, tokenizer) for source in sources]
    # A chat template writes its own special tokens.
    return tokenizer(texts, add_special_tokens=prompt.kind != "chat")


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, sources: Sequence[str], kind: Kind
) -> list[list[int]]:
    """Token ids that the model reads for each source, special tokens included."""
    found = [list(ids) for ids in tokenize_prompts(tokenizer, prompt, sources)["input_ids"]]
    for ids in found:
        if kind == "decoder-only" and ids and ids[-1] == tokenizer.eos_token_id and prompt.kind != "chat":
            ids.pop()
    return found


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, source: str, max_source_tokens: int | None, kind: Kind
) -> list[int]:
    """Token ids that the model reads for `source`, special tokens included; the source cut to its limit."""
    if max_source_tokens is not None:
        ((source, _),) = cut_sources(tokenizer, [source], max_source_tokens)
    return encode_prompts(tokenizer, prompt, [source], kind)[0]


def tokenize_targets(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, targets: Sequence[str], kind: Kind
) -> BatchEncoding:
    """What the tokenizer makes of each target, behind whatever stands between prompt and target."""
    if kind == "encoder-decoder":
        return tokenizer(text_target=list(targets))
    return tokenizer([prompt.separator + target for target in targets], add_special_tokens=False)


def encode_targets(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, targets: Sequence[str], kind: Kind
) -> list[list[int]]:
    """Token ids that the model is to write for each target, the end token last."""
    encoding = tokenize_targets(tokenizer, prompt, targets, kind)
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError("the tokenizer has no end token, so the model could not learn to stop; set eos_token in it")
    # A decoder-only model's end token is added in any case: the target's own text may end in its spelling.
    return [
        list(ids) if kind == "encoder-decoder" and ids and ids[-1] == end else [*ids, end]
        for ids in encoding["input_ids"]
    ]


def encode_records(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, records: Iterable[Record], limits: Limits, kind: Kind
) -> tuple[list[Encoded], Truncation]:
    """Training examples of `records` (first reference), in their order, and the account of what was cut.

    A cut target keeps no end token: the model shall not learn to stop in mid-sentence.
    """
    examples, cut = [], Truncation()
    left = iter(records)
    # Together, since a tokenizer takes many texts faster than one at a time.
    while part := list(islice(left, _TOGETHER)):
        sources = cut_sources(tokenizer, [record.source for record in part], limits.source)
        prompts = encode_prompts(tokenizer, prompt, [source for source, _ in sources], kind)
        targets = encode_targets(tokenizer, prompt, [record.targets[0] for record in part], kind)
        cut.examples += len(part)
        cut.sources += sum(was_cut for _, was_cut in sources)
        cut.targets += sum(len(ids) > limits.target for ids in targets)
        examples += [
            Encoded(record.id, tuple(prompt_ids), tuple(target_ids[: limits.target]), record.task)
            for record, prompt_ids, target_ids in zip(part, prompts, targets, strict=True)
        ]
    return examples, cut
