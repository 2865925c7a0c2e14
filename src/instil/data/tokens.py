"""From records to token ids. The source is cut to fit, never the prompt around it, and every cut is counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from instil.core.errors import DataError
from instil.data.prompts import Prompt
from instil.data.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["encoder-decoder", "decoder-only"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training example: what the model reads, and what it is to write (ending with the end token unless cut).

    `prompt_ids` of an encoder-decoder model are its encoder's input. `target_ids` are never empty.
    """

    id: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]

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


def cut_source(tokenizer: PreTrainedTokenizerBase, source: str, limit: int) -> tuple[str, bool]:
    """`source` within `limit` tokens, cut at a token's edge but never inside a character, and whether it was cut."""
    encoding = tokenizer(source, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    if len(encoding["input_ids"]) <= limit:
        return source, False
    if not tokenizer.is_fast:
        return str(tokenizer.decode(encoding["input_ids"][:limit], skip_special_tokens=True)), True
    # Tokens that share a character all name its whole span, so the next one's start is the edge.
    (_, end), (following, _) = encoding["offset_mapping"][limit - 1 : limit + 1]
    return source[: min(end, following)], True


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, source: str, max_source_tokens: int | None, kind: Kind
) -> list[int]:
    """Token ids that the model reads for `source`, special tokens included; the source cut to its limit."""
    if max_source_tokens is not None:
        source, _ = cut_source(tokenizer, source, max_source_tokens)
    # A chat template writes its own special tokens.
    ids = list(tokenizer(prompt.render(source, tokenizer), add_special_tokens=prompt.kind != "chat")["input_ids"])
    if kind == "decoder-only" and ids and ids[-1] == tokenizer.eos_token_id and prompt.kind != "chat":
        ids.pop()
    return ids


def encode_target(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, target: str, kind: Kind) -> list[int]:
    """Token ids that the model is to write for `target`, its end token last."""
    if kind == "encoder-decoder":
        ids = list(tokenizer(text_target=target)["input_ids"])
    else:
        ids = list(tokenizer(prompt.separator + target, add_special_tokens=False)["input_ids"])
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError("the tokenizer has no end token, so the model could not learn to stop; set eos_token in it")
    # A decoder-only model's end token is added in any case: the target's own text may end in its spelling.
    return ids if kind == "encoder-decoder" and ids and ids[-1] == end else [*ids, end]


def encode_records(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, records: Iterable[Record], limits: Limits, kind: Kind
) -> tuple[list[Encoded], Truncation]:
    """Training examples of `records` (first reference), in their order, and the account of what was cut.

    A cut target keeps no end token: the model shall not learn to stop in mid-sentence.
    """
    examples, cut = [], Truncation()
    for record in records:
        source, was_cut = cut_source(tokenizer, record.source, limits.source)
        prompt_ids = encode_prompt(tokenizer, prompt, source, None, kind)
        target_ids = encode_target(tokenizer, prompt, record.targets[0], kind)
        cut.examples += 1
        cut.sources += was_cut
        cut.targets += len(target_ids) > limits.target
        examples.append(Encoded(record.id, tuple(prompt_ids), tuple(target_ids[: limits.target])))
    return examples, cut
