"""Rows: the one abstraction that hides the difference between encoder-decoder and decoder-only models.

A row is a position that predicts a target token. `family.collate(examples)` makes a batch, `family.rows(model, batch)`
gives the hidden states at its rows and the head that turns them into the model's own logits.

Shapes: N rows, B batch, T time of the sequence that predicts, S time of the encoder's input, D width, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from instil.core.errors import ModelError
from instil.data.tokens import Encoded, Kind
from instil.models.head import Head, describe, head_of, unwrap
from instil.models.probe import probe

Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model is called with, and where its rows are.

    `inputs`: tensors of shape `(B, T)` or `(B, S)`. `row_index_N`: index of each row in the flat `(B * T)` positions.
    `target_N`: the token that each row predicts. `example_N`: the row's example, as an index into the batch.
    Rows stand in batch order, then in time order.
    """

    inputs: dict[str, Int[Tensor, "B _"]]
    row_index_N: Int[Tensor, N]
    target_N: Int[Tensor, N]
    example_N: Int[Tensor, N]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with all its tensors on `device`."""
        return Batch(
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()},
            *(part.to(device, non_blocking=True) for part in (self.row_index_N, self.target_N, self.example_N)),
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """`hidden_ND`: shape `(N, D)`, hidden states that predict `target_N`; `head.logits(hidden_ND)` are the logits."""

    hidden_ND: Float[Tensor, "N D"]
    head: Head
    target_N: Int[Tensor, N]
    example_N: Int[Tensor, N]


@runtime_checkable
class Family(Protocol):
    """How one kind of text-to-text model turns examples into rows."""

    @property
    def kind(self) -> Kind:
        """Which of the two it is; what `instil.data.tokens` asks for."""

    def collate(self, examples: Sequence[Encoded]) -> Batch:
        """`examples` padded into one batch on the CPU."""

    def rows(self, model: nn.Module, batch: Batch) -> Rows:
        """The rows of `batch`, which must be on the model's device. Gradients flow if they are enabled."""


@dataclass(frozen=True, slots=True)
class DecoderOnly:
    """Reads prompt + target without its last token; the last prompt token predicts the first target token.

    A causal model cannot look to the right, so padding there is masked by nothing but its place: a mask of ones
    keeps the fast causal kernels. Left padding gets a mask by length and, where the model takes them, position ids
    that start at 0 with each example.
    """

    pad_id: int = 0
    n_valid: int | None = None
    side: Side = "right"
    takes_position_ids: bool = True
    kind: Kind = "decoder-only"

    def collate(self, examples: Sequence[Encoded]) -> Batch:
        """`inputs["input_ids"]` of shape `(B, T)`; empty prompts and empty targets raise `ModelError`."""
        _require_tokens(examples)
        ids = [[*example.prompt_ids, *example.target_ids[:-1]] for example in examples]
        ids_BT, mask_BT = pad_ids(ids, self.pad_id, self.side)
        inputs = {"input_ids": ids_BT, "attention_mask": mask_BT if self.side == "left" else torch.ones_like(mask_BT)}
        if self.side == "left" and self.takes_position_ids:
            inputs["position_ids"] = (mask_BT.cumsum(1) - 1).clamp(min=0)
        width = ids_BT.shape[1]
        offsets = [width - len(row) if self.side == "left" else 0 for row in ids]
        first = [offset + len(example.prompt_ids) - 1 for offset, example in zip(offsets, examples, strict=True)]
        return _batch(inputs, examples, first, width)

    def rows(self, model: nn.Module, batch: Batch) -> Rows:
        """Calls the backbone only; the head is left to the objective."""
        backbone = unwrap(model).get_decoder()
        hidden_BTD = backbone(**batch.inputs, use_cache=False, return_dict=True).last_hidden_state
        return _rows(hidden_BTD, batch, head_of(model, n_valid=self.n_valid))


@dataclass(frozen=True, slots=True)
class EncoderDecoder:
    """The encoder reads the prompt; the decoder reads the start token + target without its last token.

    Masks come from lengths: the start token of T5 *is* its pad token, so comparing ids would hide the first row.
    """

    start_id: int
    pad_id: int = 0
    n_valid: int | None = None
    kind: Kind = "encoder-decoder"

    def collate(self, examples: Sequence[Encoded]) -> Batch:
        """`input_ids`, `attention_mask`: `(B, S)`; `decoder_input_ids`, `decoder_attention_mask`: `(B, T)`."""
        _require_tokens(examples)
        ids_BS, mask_BS = pad_ids([example.prompt_ids for example in examples], self.pad_id, "right")
        written = [(self.start_id, *example.target_ids[:-1]) for example in examples]
        ids_BT, mask_BT = pad_ids(written, self.pad_id, "right")
        inputs = {
            "input_ids": ids_BS,
            "attention_mask": mask_BS,
            "decoder_input_ids": ids_BT,
            "decoder_attention_mask": mask_BT,
        }
        return _batch(inputs, examples, [0] * len(examples), ids_BT.shape[1])

    def rows(self, model: nn.Module, batch: Batch) -> Rows:
        """Calls the encoder and the decoder's stack; the head is left to the objective."""
        inner, inputs = unwrap(model), batch.inputs
        encoded_BSD = inner.get_encoder()(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], return_dict=True
        ).last_hidden_state
        hidden_BTD = inner.get_decoder()(
            input_ids=inputs["decoder_input_ids"],
            attention_mask=inputs["decoder_attention_mask"],
            encoder_hidden_states=encoded_BSD,
            encoder_attention_mask=inputs["attention_mask"],
            use_cache=False,
            return_dict=True,
        ).last_hidden_state
        return _rows(hidden_BTD, batch, head_of(model, n_valid=self.n_valid))


# Proven in tests/test_families.py; any other architecture is probed when it is first used.
PROVEN = frozenset(("t5", "bart", "marian", "pegasus", "llama", "gemma3_text", "qwen3", "phi3", "gptj", "gpt2"))


def family_of(model: nn.Module, *, pad_id: int | None = None, n_valid: int | None = None) -> Family:
    """The family of `model` (a transformers model, wrapped by peft or not).

    `pad_id`: the token that fills up batches, never seen by a row; by default the model's own, else 0.
    `n_valid`: the number of ids that the tokenizer knows, where the embedding is larger; by default all are valid.
    Raises `ModelError` if the model does not generate text, or if its rows do not give its own logits.
    """
    inner = unwrap(model)
    config = inner.config
    if not (hasattr(inner, "can_generate") and inner.can_generate()):
        raise ModelError(
            f"{describe(inner)} does not generate text; "
            "choose an encoder-decoder model (T5, BART, ...) or a decoder-only model (Llama, Gemma, ...)"
        )
    head_of(inner, n_valid=n_valid)
    pad = pad_id if pad_id is not None else _special(inner, "pad_token_id")
    family: EncoderDecoder | DecoderOnly
    if config.is_encoder_decoder:
        family = EncoderDecoder(_start_id(inner), pad or 0, n_valid)
    else:
        takes = "position_ids" in inspect.signature(inner.get_decoder().forward).parameters
        family = DecoderOnly(pad or 0, n_valid, takes_position_ids=takes)
    if config.model_type not in PROVEN:
        probe(inner, replace(family, n_valid=None))
    return family


def _special(model: Any, name: str) -> int | None:
    for config in (model.config, getattr(model, "generation_config", None)):
        if (value := getattr(config, name, None)) is not None:
            return int(value)
    return None


def _start_id(model: Any) -> int:
    start = _special(model, "decoder_start_token_id")
    if start is None:
        raise ModelError(
            f"{describe(model)} has no decoder_start_token_id in its config.json; "
            "set it to the token that its decoder starts with"
        )
    return start


def _require_tokens(examples: Sequence[Encoded]) -> None:
    for example in examples:
        if not example.target_ids or not example.prompt_ids:
            part = "target" if not example.target_ids else "prompt"
            raise ModelError(f"example {example.id!r} has no {part} tokens; remove it from the data")


def pad_ids(ids: Sequence[Sequence[int]], pad_id: int, side: Side) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Token ids filled up with `pad_id` on one side, and their mask by length; both of shape `(B, T)`."""
    width = max(len(row) for row in ids)
    ids_BT = torch.full((len(ids), width), pad_id)
    mask_BT = torch.zeros((len(ids), width), dtype=torch.long)
    for index, row in enumerate(ids):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids_BT[index, span] = torch.tensor(row)
        mask_BT[index, span] = 1
    return ids_BT, mask_BT


def _batch(inputs: dict[str, Tensor], examples: Sequence[Encoded], first: Sequence[int], width: int) -> Batch:
    """`first`: the time of each example's first row; its rows follow one another."""
    counts = torch.tensor([len(example.target_ids) for example in examples])
    example_N = torch.repeat_interleave(torch.arange(len(examples)), counts)
    starts = counts.cumsum(0) - counts
    time_N = torch.tensor(first)[example_N] + torch.arange(len(example_N)) - starts[example_N]
    target_N = torch.tensor([token for example in examples for token in example.target_ids])
    return Batch(inputs, example_N * width + time_N, target_N, example_N)


def _rows(hidden_BTD: Float[Tensor, "B T D"], batch: Batch, head: Head) -> Rows:
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, batch.row_index_N)
    return Rows(hidden_ND, head, batch.target_N, batch.example_N)
