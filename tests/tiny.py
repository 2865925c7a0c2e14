"""Tiny models with random weights, one of each architecture that we prove, and a tokenizer that knows only bytes.

Nothing is downloaded. Weights are spread wide, so that a forgotten bias, scale or mask shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn

from instil.data.tokens import Kind

PAD, END, BEGIN, FIRST_BYTE = 0, 1, 2, 3
VOCABULARY = FIRST_BYTE + 256
PADDED_VOCABULARY = 264
SPECIAL: dict[str, Any] = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": BEGIN}

_BART: dict[str, Any] = {
    "vocab_size": PADDED_VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "forced_eos_token_id": None,
    **SPECIAL,
}
_LLAMA: dict[str, Any] = {
    "vocab_size": PADDED_VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **SPECIAL,
}
_T5: dict[str, Any] = {
    "vocab_size": PADDED_VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": PAD,
}
_GPT: dict[str, Any] = {
    "vocab_size": PADDED_VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    **SPECIAL,
}

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**_T5)),
    "t5_gated": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**_BART, decoder_start_token_id=END)),
    "marian": lambda: hf.MarianMTModel(hf.MarianConfig(**_BART, decoder_start_token_id=PAD)),
    "pegasus": lambda: hf.PegasusForConditionalGeneration(hf.PegasusConfig(**_BART, decoder_start_token_id=PAD)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_LLAMA)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(
            **_LLAMA,
            head_dim=8,
            sliding_window=4,
            query_pre_attn_scalar=8,
            final_logit_softcapping=3.0,
            layer_types=["sliding_attention", "full_attention"],
        )
    ),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_LLAMA, head_dim=8, tie_word_embeddings=True)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_LLAMA, sliding_window=4)),
    "gptj": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**_GPT, rotary_dim=4)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT)),
}
ENCODER_DECODER = ("t5", "t5_gated", "bart", "marian", "pegasus")
DECODER_ONLY = ("llama", "gemma3", "qwen3", "phi3", "gptj", "gpt2")

# Architectures that no table names: the probe must find them right.
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "mt5": lambda: hf.MT5ForConditionalGeneration(hf.MT5Config(**_T5)),
    "umt5": lambda: hf.UMT5ForConditionalGeneration(hf.UMT5Config(**_T5)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_LLAMA, sliding_window=4)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_LLAMA)),
    "smollm3": lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**_LLAMA)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**_LLAMA, head_dim=8, final_logit_softcapping=3.0)),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**_LLAMA, logit_scale=0.25)),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**_LLAMA, logits_scaling=4.0)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            **{key: value for key, value in _LLAMA.items() if key not in ("intermediate_size", "num_key_value_heads")},
            ffn_dim=48,
            word_embed_proj_dim=32,
        )
    ),
}


def tiny_model(name: str, *, seed: int = 0) -> Any:
    """The model `name` of `BUILDERS` or `OTHERS` in fp32, in evaluation mode, with random weights from `seed`."""
    torch.manual_seed(seed)
    return scatter({**BUILDERS, **OTHERS}[name]()).eval()


def scatter(model: Any) -> Any:
    """The same model with matrices drawn wide and biases (in buffers too) that are not zero; what is computed stays."""
    named = [*model.named_parameters(), *model.named_buffers()]
    with torch.no_grad():
        for name, tensor in named:
            if "bias" in name and tensor.is_floating_point():
                tensor.normal_(std=0.05)
            elif tensor.ndim == 2 and isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                tensor.normal_(std=0.3)
    return model


def tiny_tokenizer(kind: Kind) -> Any:
    """A token a byte, after `<pad>`, `</s>` and `<s>`. For encoder-decoder models it adds the end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "encoder-decoder":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", END)]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        clean_up_tokenization_spaces=False,
    )
