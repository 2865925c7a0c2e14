"""A real server over a tiny model: llama.cpp, through xllamacpp, with the weights of a model of `tiny`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf

import tiny


def write_gguf(model: Any, words: list[str], path: Path) -> None:
    """The tiny Qwen 3 `model` in fp32 as a GGUF file whose first ids are `words`; the others are fillers."""
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    fillers = [f"<filler{number}>" for number in range(len(words), config.vocab_size)]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*words, *fillers])
    writer.add_token_types([control if word.startswith("<") else normal for word in [*words, *fillers]])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(tiny.BEGIN)
    writer.add_eos_token_id(tiny.END)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # Tied to the embedding.
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            writer.add_tensor(found, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def llama_cpp(path: Path) -> Iterator[str]:
    """The address of a running server of the GGUF file, two requests at a time."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 512
    params.n_parallel = 2
    params.warmup = False
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server
