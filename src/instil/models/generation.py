"""Text from a transformers model: greedy or beam search, in batches of similar length, the same for any batch size.

Shapes: B batch, S time of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import GenerationConfig

from instil.core.errors import ModelError
from instil.data.prompts import Prompt
from instil.data.tokens import Kind, encode_prompt
from instil.models.family import Side, pad_ids
from instil.models.head import describe, unwrap
from instil.models.probe import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, StoppingCriteriaList

# What a model's own generation_config says about its alphabet; what it says about search (sampling, minimal lengths,
# penalties) is left aside, so that teacher and student are compared under one rule.
ALPHABET = (
    "bos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)


class TransformersGenerator:
    """The `Generator` of a transformers model of either family, wrapped by peft or not."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        *,
        name: str,
        num_beams: int = 1,
        max_source_tokens: int | None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """`progress` is called with the number of texts done, after each batch. The model stays where it is."""
        self.model = model
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.num_beams = num_beams
        self.max_source_tokens = max_source_tokens
        self.progress = progress
        self._name = name

    @property
    def name(self) -> str:
        """What reports call it."""
        return self._name

    @property
    def parameters(self) -> int:
        """Number of distinct weights; tied ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def bytes(self) -> int:
        """Bytes that the distinct weights take in memory."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    @property
    def kind(self) -> Kind:
        """The model's family."""
        return "encoder-decoder" if unwrap(self.model).config.is_encoder_decoder else "decoder-only"

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        """One text for each source, in their order, of at most `max_new_tokens` tokens.

        Raises `ModelError` for a source that gives no tokens, or more than the model has positions for.
        """
        search = self.search(max_new_tokens, num_beams=self.num_beams, do_sample=False)
        return [texts[0] for texts in self._run(sources, search, batch_size)]

    def candidates(
        self, sources: Sequence[str], count: int, *, max_new_tokens: int, batch_size: int = 1,
        sample: float | None = None, seed: int = 0,
    ) -> list[list[str]]:  # fmt: skip
        """Up to `count` different texts for each source: the best ones of the beams, or drawn at temperature `sample`
        from `seed` on. Raises like `generate`."""
        if sample is None:
            how: dict[str, Any] = {"num_beams": max(self.num_beams, count), "do_sample": False}
        else:
            how = {"do_sample": True, "temperature": sample, "top_k": 0}
        search = self.search(max_new_tokens, num_return_sequences=count, **how)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return [list(dict.fromkeys(texts)) for texts in self._run(sources, search, batch_size)]

    def draw(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, sample: float, seed: int
    ) -> list[list[int]]:
        """Tokens behind each of the `prompts`, all in one batch, drawn at temperature `sample` from `seed` on: up to
        `max_new_tokens`, the end token included. Raises `ModelError` for more than the model has positions for."""
        search = self.search(max_new_tokens, do_sample=True, temperature=sample, top_k=0)
        _require_room(unwrap(self.model), prompts, max_new_tokens, self.kind)
        with torch.random.fork_rng(), evaluating(self.model), _searching(unwrap(self.model), search):
            torch.manual_seed(seed)
            return self._tokens(prompts)

    def _run(self, sources: Sequence[str], search: GenerationConfig, batch_size: int) -> list[list[str]]:
        """All texts of each source, in their order."""
        prompts = [self._encode(source) for source in sources]
        _require_room(unwrap(self.model), prompts, search.max_new_tokens, self.kind)
        longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        found: list[list[str]] = [[] for _ in prompts]
        with evaluating(self.model), _searching(unwrap(self.model), search):
            for start in range(0, len(prompts), batch_size):
                chosen = longest_first[start : start + batch_size]
                texts = self._texts([prompts[index] for index in chosen])
                each = len(texts) // len(chosen)
                for number, index in enumerate(chosen):
                    found[index] = texts[number * each : (number + 1) * each]
                if self.progress is not None:
                    self.progress(start + len(chosen))
        return found

    def _encode(self, source: str) -> list[int]:
        ids = encode_prompt(self.tokenizer, self.prompt, source, self.max_source_tokens, self.kind)
        if not ids:
            raise ModelError(
                f"the source {source!r} gives no tokens; remove it from the data or use a prompt with text"
            )
        return ids

    def search(self, max_new_tokens: int, **how: Any) -> GenerationConfig:
        """A search as `how` says, under the model's own alphabet but none of its habits."""
        own = unwrap(self.model).generation_config
        alphabet = {key: value for key in ALPHABET if (value := getattr(own, key, None)) is not None}
        ends = self.ends
        pad = self.tokenizer.pad_token_id
        return GenerationConfig(
            **alphabet,
            eos_token_id=ends or None,
            pad_token_id=pad if pad is not None else (ends or [0])[0],
            max_new_tokens=max_new_tokens,
            use_cache=True,
            **how,
        )

    @property
    def ends(self) -> list[int]:
        """The tokens that end an output."""
        own = unwrap(self.model).generation_config.eos_token_id
        ends = [own] if isinstance(own, int) else list(own or [])
        return list(dict.fromkeys(end for end in [self.tokenizer.eos_token_id, *ends] if end is not None))

    def write_ids(
        self, prompts: Sequence[Sequence[int]], search: GenerationConfig, stopping: StoppingCriteriaList
    ) -> None:
        """Write behind `prompts`, token ids, as one batch; what is written `stopping` sees as it comes."""
        with evaluating(self.model), _searching(unwrap(self.model), search):
            self._tokens(prompts, stopping_criteria=stopping)

    def _texts(self, prompts: list[list[int]]) -> list[str]:
        ends = set(self.ends)
        return [self._decode(ids[:-1] if ids[-1] in ends else ids) for ids in self._tokens(prompts)]

    def _tokens(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        """What the model writes behind each prompt, to the first end token and with it."""
        model = unwrap(self.model)
        side: Side = "left" if self.kind == "decoder-only" else "right"
        ids_BS, mask_BS = pad_ids(prompts, model.generation_config.pad_token_id, side)
        device = model.get_input_embeddings().weight.device
        written = model.generate(input_ids=ids_BS.to(device), attention_mask=mask_BS.to(device), **options).tolist()
        # The decoder of an encoder-decoder model begins with its start token, which may be an end token too.
        begin = ids_BS.shape[1] if self.kind == "decoder-only" else 1
        ends = set(self.ends)
        return [_to_end(ids[begin:], ends) for ids in written]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


class PacedGenerator(TransformersGenerator):
    """Writes as many tokens as `lengths` says for a source, whatever they are: for the time that a model takes which
    has not learned yet where to end."""

    def __init__(self, *arguments: Any, lengths: Mapping[str, int], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lengths = lengths

    def generate(self, sources: Sequence[str], *, max_new_tokens: int, batch_size: int = 1) -> list[str]:
        """A text for each source. `max_new_tokens` bounds the lengths; sources of one batch go one by one."""
        each = ((source, min(self._lengths[source], max_new_tokens)) for source in sources)
        return [super(PacedGenerator, self).generate([source], max_new_tokens=most)[0] for source, most in each]

    def _search(self, max_new_tokens: int, **how: Any) -> GenerationConfig:
        search = super()._search(max_new_tokens, **how)
        search.eos_token_id = None
        return search


@contextmanager
def _searching(model: Any, search: GenerationConfig) -> Iterator[None]:
    # Passed as an argument, a configuration would be filled up from the model's own: sampling, penalties and all.
    own, model.generation_config = model.generation_config, search
    try:
        yield
    finally:
        model.generation_config = own


def _require_room(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, kind: Kind) -> None:
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    longest = max((len(prompt) for prompt in prompts), default=0)
    needed = longest + max_new_tokens if kind == "decoder-only" else max(longest, max_new_tokens)
    if positions is not None and needed > positions:
        raise ModelError(
            f"{describe(model)} has {positions} positions, but {needed} are needed "
            f"(prompt {longest}, output {max_new_tokens}); lower max_source_tokens"
        )


def _to_end(ids: list[int], ends: set[int]) -> list[int]:
    """`ids` up to the first end token; a batch fills up finished texts behind it."""
    return ids[: next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))]
