"""Exports: the formats' own engines write what the student writes, or the export is refused and the old one stands."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

import tiny
from instil.compress.config import CompressConfig
from instil.compress.rounding import bake, compress
from instil.core.errors import ConfigError, ModelError
from instil.core.protocol import Generator
from instil.data.prompts import Prompt
from instil.data.tokens import Limits
from instil.export import publish
from instil.export.engines import open_engine
from instil.export.formats import precision_of
from instil.export.parity import EXACT, PARITY_NAME, ParityError, Probe, compare
from instil.export.place import place_of
from instil.export.rotation import can_rotate, rotate
from instil.export.sheet import SHEET_NAME, Sheet, read_sheet
from instil.export.smoothing import is_rounded, smooth
from instil.export.student import Student, open_student
from instil.models.students.vocabulary.choose import Texts
from instil.models.students.vocabulary.trim import trim
from instil.run.servable import asked_records, specs_of
from instil.serve.config import EngineOptions
from instil.serve.config import Limits as ServeLimits
from instil.serve.engines.choose import choose, start
from instil.serve.jobs import Job
from small import small_model, small_tokenizer, texts

PROBES = [Probe(f"probe number {number} is {number * number}", ("a reference",)) for number in range(4)]
PROMPT = Prompt(kind="template", text="Say: {source} =")
NEAR = {"ctranslate2": 1e-3, "gguf": 1e-3, "hf": 1e-3, "onnx": 1e-3, "openvino": 1e-3}


def save(model: Any, folder: Path) -> Path:
    """`model` as a student's folder, with the prompt and limits of a recipe."""
    kind = "encoder-decoder" if model.config.is_encoder_decoder else "decoder-only"
    model.generation_config.pad_token_id = tiny.PAD
    if kind == "encoder-decoder":
        model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id
    model.save_pretrained(folder)
    tiny.tiny_tokenizer(kind).save_pretrained(folder)
    recipe = {"prompt": PROMPT.model_dump(), "limits": {"source": 40, "target": 12}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def tiny_student(name: str, folder: Path) -> Student:
    model = tiny.tiny_model(name)
    if name in ("gemma3", "phi3"):  # CTranslate2 has no cap on logits, and no window that a text outgrows.
        model.config.final_logit_softcapping, model.config.sliding_window = None, 64
    return open_student(save(model, folder / "student"))


def wide_student(name: str, folder: Path) -> Student:
    """A tiny decoder with heads of 16 channels, the fewest that ONNX Runtime's attention has."""
    config = tiny.tiny_model(name).config
    config.hidden_size, config.head_dim = 64, 16
    torch.manual_seed(0)
    return open_student(save(tiny.scatter(hf.AutoModelForCausalLM.from_config(config)).eval(), folder / "student"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return tiny_student("llama", tmp_path_factory.mktemp("llama"))


CASES = [
    *(("ctranslate2", name) for name in ("t5", "t5_gated", "bart", "marian", "pegasus")),
    *(("ctranslate2", name) for name in ("llama", "gemma3", "qwen3", "phi3", "gptj", "gpt2")),
    *(("gguf", name) for name in ("llama", "gemma3", "qwen2", "qwen3", "phi3", "gpt2", "smollm3")),
    ("onnx", "llama"),
    *(pytest.param("onnx", name, marks=pytest.mark.slow) for name in ("t5", "bart", "marian")),
    *(pytest.param("onnx", name, marks=pytest.mark.slow) for name in ("gemma2", "gemma3", "qwen2", "qwen3")),
    *(pytest.param("onnx", name, marks=pytest.mark.slow) for name in ("phi3", "mistral", "smollm3")),
    ("openvino", "llama"),
    *(pytest.param("openvino", name, marks=pytest.mark.slow) for name in ("t5", "bart", "gemma3", "qwen3")),
    ("hf", "t5"),
    ("hf", "llama"),
]


@pytest.mark.parametrize(("target", "name"), CASES)
def test_an_exact_export_writes_what_the_student_writes(target: Any, name: str, tmp_path: Path) -> None:
    narrow = target != "onnx" or name in tiny.ENCODER_DECODER
    student = (tiny_student if narrow else wide_student)(name, tmp_path)
    made = publish.export_student(student, target, tmp_path / "out", precision="fp32", probes=PROBES)
    assert made.parity.log_prob < NEAR[target] and made.parity.regret < EXACT.regret
    engine = open_engine(made.folder)
    assert isinstance(engine, Generator)
    sources = [probe.source for probe in PROBES]
    wanted = student.generator.generate(sources, max_new_tokens=8, batch_size=2)
    assert engine.generate(sources, max_new_tokens=8, batch_size=3) == wanted
    assert engine.parameters == student.generator.parameters and engine.bytes > 0
    assert place_of(made.folder, [], force=True) == made.folder


def test_prompt_and_limits_travel(llama: Student, tmp_path: Path) -> None:
    made = publish.export_student(llama, "ctranslate2", tmp_path / "out", precision="fp32", probes=PROBES)
    sheet = read_sheet(made.folder)
    assert (sheet.prompt, sheet.source_limit, sheet.target_limit) == (PROMPT, 40, 12)
    kept = json.loads((made.folder / PARITY_NAME).read_text())
    assert kept["passed"] and kept["probes"] == len(PROBES)
    long = "word " * 50
    assert len(open_engine(made.folder).read(long)) == len(llama.generator._encode(long))


def test_a_prefix_of_the_data_travels_with_the_prompt(tmp_path: Path) -> None:
    folder = save(tiny.tiny_model("llama"), tmp_path / "student")
    recipe = json.loads((folder / "recipe.yaml").read_text()) | {"data": {"prefix": "title: "}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    made = publish.export_student(open_student(folder), "hf", tmp_path / "out", precision="fp32", probes=PROBES)
    assert read_sheet(made.folder).prompt.text == "Say: title: {source} ="
    rows = ({"source": "title: one", "target": "1"}, {"source": "other: two", "target": "2", "task": "other"})
    (folder / "test.jsonl").write_text("".join(json.dumps({"id": str(i)} | row) + "\n" for i, row in enumerate(rows)))
    assert [record.source for record in asked_records(folder)] == ["one"]


def test_an_export_to_transformers_is_a_student_again(llama: Student, tmp_path: Path) -> None:
    made = publish.export_student(llama, "hf", tmp_path / "out", precision="fp32", probes=PROBES)
    again = open_student(made.folder)
    assert (again.prompt, again.source_limit, again.target_limit) == (PROMPT, 40, 12)


def test_a_corrupted_export_is_refused_and_the_old_one_stands(
    llama: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    publish.export_student(llama, "ctranslate2", out, precision="fp32", probes=PROBES)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write = publish.write_format

    def corrupted(student: Student, target: Any, precision: str, folder: Path) -> None:
        write(student, target, precision, folder)
        content = bytearray((folder / "model.bin").read_bytes())
        middle = np.frombuffer(content, dtype=np.uint8)[len(content) // 2 :][:4000]
        middle[:] = np.frombuffer(np.full(1000, 0.5, dtype=np.float32).tobytes(), dtype=np.uint8)
        (folder / "model.bin").write_bytes(content)

    monkeypatch.setattr(publish, "write_format", corrupted)
    with pytest.raises(ParityError, match=r"refused, its .* nats"):
        publish.export_student(llama, "ctranslate2", out, precision="fp32", probes=PROBES, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("target", ["ctranslate2", "gguf"])
def test_an_export_that_writes_forbidden_tokens_is_refused(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.tiny_model("llama")
    free = open_student(save(model, tmp_path / "free"))
    sources = [probe.source for probe in PROBES]
    written = free.generator.generate(sources, max_new_tokens=12, batch_size=4)
    ids = free.loaded.tokenizer("".join(written), add_special_tokens=False)["input_ids"]
    model.generation_config.suppress_tokens = sorted(set(ids))
    student = open_student(save(model, tmp_path / "student"))
    publish.export_student(student, target, tmp_path / "out", precision="fp32", probes=PROBES)
    whole = Student.sheet

    def forgetful(self: Student, target: Any, precision: str) -> Sheet:
        sheet = whole(self, target, precision)
        return sheet.model_copy(update={"alphabet": sheet.alphabet.model_copy(update={"never": ()})})

    monkeypatch.setattr(Student, "sheet", forgetful)
    with pytest.raises(ParityError, match="refused, 4 of 4 texts are others than the student's"):
        publish.export_student(student, target, tmp_path / "other", precision="fp32", probes=PROBES)


def test_an_export_is_replaced_only_when_asked_to(llama: Student, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish.export_student(llama, "ctranslate2", out, precision="fp32", probes=PROBES)
    with pytest.raises(ConfigError, match="exists already; add --force"):
        publish.export_student(llama, "ctranslate2", out, precision="fp32", probes=PROBES)
    publish.export_student(llama, "hf", out, precision="fp32", probes=PROBES, force=True)
    assert read_sheet(out).format == "hf" and not (out / "model.bin").exists()


def test_a_worse_score_is_refused(llama: Student, tmp_path: Path) -> None:
    scores = iter([50.0] * len(PROBES) + [40.0] * len(PROBES))
    with pytest.raises(ParityError, match=r"loses 10\.00 points of rougeL"):
        publish.export_student(
            llama, "ctranslate2", tmp_path / "out", precision="fp32", probes=PROBES, metric="rougeL",
            scorer=lambda output, targets: next(scores),
        )  # fmt: skip


def calm(name: str, folder: Path) -> Student:
    """A wider student with weights as small as a trained one's, which bear being rounded."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = hf.LlamaConfig(**{**tiny._LLAMA, **sizes}, tie_word_embeddings=name == "tied")
    return open_student(save(hf.LlamaForCausalLM(config).eval(), folder / "student"))


@pytest.mark.parametrize(("target", "precision", "smaller"), [
    ("ctranslate2", "int8", 3.4), ("gguf", "q8_0", 3.4), ("gguf", "q4_k_m", 5.0), ("gguf", "q4_0", 5.0),
    ("hf", "bf16", 1.9), ("onnx", "int4", 4.4), ("onnx", "int8", 3.3),
])  # fmt: skip
def test_quantised_exports_are_smaller_and_near(target: Any, precision: str, smaller: float, tmp_path: Path) -> None:
    student = calm("tied", tmp_path)
    made = publish.export_student(student, target, tmp_path / "out", precision=precision, probes=PROBES)
    assert made.student_bytes / made.bytes > smaller


@pytest.mark.parametrize(
    ("machine", "processor", "steps"),
    [
        ("x86_64", "flags : fpu avx2 fma", 96), ("x86_64", "flags : avx2 avx512_vnni", 127),
        ("aarch64", "Features : asimd", 127), ("AMD64", "", 127),
    ],
)  # fmt: skip
def test_int8_leaves_room_for_sums_in_16_bits(machine: str, processor: str, steps: int) -> None:
    from ctranslate2.specs.model_spec import NumpyVariable

    from instil.export.formats import ctranslate2 as converting

    assert converting.steps_on(machine, processor) == steps
    rows = np.array([[0.5, -2.0], [0, 0], [0, 1e-39]], np.float32)
    layer = SimpleNamespace(weight=NumpyVariable(rows), weight_scale=None)
    converting._round(steps, layer, "decoder/layer_0/linear/weight", layer.weight)
    assert layer.weight.numpy().tolist() == [[round(steps / 4), -steps], [0, 0], [0, 0]]
    assert layer.weight_scale.numpy().tolist() == [steps / 2, steps, steps]


def test_types_of_a_q4_k_m_file() -> None:
    from gguf import GGMLQuantizationType as Type

    from instil.export.formats.gguf_quants import type_of

    def of(name: str, width: int = 512) -> Type:
        return type_of(name, (1024, width), "q4_k_m", layers=16, tied=True)

    assert of("token_embd.weight") == Type.Q6_K and of("blk.3.attn_q.weight") == Type.Q4_K
    assert of("blk.0.ffn_down.weight") == Type.Q6_K and of("blk.2.ffn_down.weight") == Type.Q4_K
    assert of("blk.2.ffn_down.weight", 96) == Type.Q5_0 and of("blk.2.ffn_down.weight", 40) == Type.F16
    assert type_of("blk.0.attn_norm.weight", (512,), "q4_k_m", layers=16, tied=True) == Type.F32


@pytest.mark.parametrize("merged", [False, True])
def test_llama_cpp_reads_the_students_tokens(merged: bool, llama: Student, tmp_path: Path) -> None:
    made = publish.export_student(llama, "gguf", tmp_path / "out", precision="fp32", probes=PROBES)
    engine = open_engine(made.folder)
    assert engine.reads_alike("Ein  Text, 12 34\n\n<s>é日🙂")
    if merged:
        (made.folder / "tokenizer.json").write_text(
            (made.folder / "tokenizer.json").read_text().replace('"merges": []', '"merges": [["a","b"]]')
        )
        state = json.loads((made.folder / "tokenizer.json").read_text())
        state["model"]["vocab"]["ab"] = tiny.VOCABULARY
        (made.folder / "tokenizer.json").write_text(json.dumps(state))
        found = compare(llama, open_engine(made.folder), [Probe("abc")], tolerance=EXACT, max_new_tokens=2)
        assert "other tokens" in found.problem


@pytest.mark.parametrize("name", ["byte-level", "qwen", "llama"])
def test_llama_cpp_reads_a_trimmed_vocabulary(name: str, tmp_path: Path) -> None:
    """What is merged is merged there too, in texts that lost words as well."""
    kept = Texts(prompt=PROMPT, limits=Limits(source=50, target=40), kind="decoder-only", records=texts()[:40])
    refused = "" if name == "qwen" else "takes words that are tokens as they are"  # Llama 3's cuts are Qwen's.
    for words in ("merged", "whole"):
        model, tokenizer, report = trim(small_model(name), small_tokenizer(name), kept, 900, words)
        folder = tmp_path / words
        save(model, folder)
        tokenizer.save_pretrained(folder)
        student, out = open_student(folder), tmp_path / f"{words} out"
        if words == "whole" and refused:
            with pytest.raises(ModelError, match=refused):
                publish.export_student(student, "gguf", out, precision="fp32", probes=PROBES)
            continue
        engine = open_engine(publish.export_student(student, "gguf", out, precision="fp32", probes=PROBES).folder)
        assert report.respelled > 0 and all(engine.reads_alike(record.source[:300]) for record in texts()[:60])


def test_what_no_format_offers_is_said(tmp_path: Path, llama: Student) -> None:
    with pytest.raises(ConfigError, match="has no precision 'int3'; choose one of int8, fp32"):
        precision_of("ctranslate2", "int3")
    with pytest.raises(ModelError, match="not offered as GGUF"):
        publish.export_student(tiny_student("t5", tmp_path), "gguf", tmp_path / "out", probes=PROBES)
    with pytest.raises(ModelError, match="not offered as ONNX, which has llama"):
        publish.export_student(tiny_student("gpt2", tmp_path / "gpt2"), "onnx", tmp_path / "out", probes=PROBES)
    with pytest.raises(ModelError, match="heads of 8 channels"):
        publish.export_student(llama, "onnx", tmp_path / "out", probes=PROBES)
    with pytest.raises(ModelError, match=f"no {SHEET_NAME}"):
        open_engine(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        open_student(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_smoothed_model_computes_the_same_with_calmer_activations(name: str) -> None:
    model = tiny.tiny_model(name)
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.input_layernorm.weight[3] = 40.0
        layer.mlp.up_proj.weight[5] *= 30
    prompts = [[5, 6, 7, 8], [9, 10, 11]]
    smoothed = smooth(model, prompts)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.inference_mode():
        torch.testing.assert_close(smoothed(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert smoothed.model.layers[0].input_layernorm.weight[3].abs() < 20
    assert model.model.layers[0].input_layernorm.weight[3] == 40.0
    assert smooth(tiny.tiny_model("t5"), prompts).config.model_type == "t5"


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_weights_that_learned_to_be_rounded_are_tried_as_they_are(name: str, tmp_path: Path) -> None:
    model = tiny.tiny_model(name)
    assert not is_rounded(model)
    compress(model, CompressConfig(method="int8"))
    bake(model)
    assert is_rounded(model)
    student = open_student(save(model, tmp_path / "student"))
    ways = publish._ways(student, PROBES)
    assert next(iter(ways.values()))() is student
    assert len(ways) > 1


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_rotated_model_computes_the_same_without_channels_that_stand_out(name: str) -> None:
    model = tiny.tiny_model(name)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.inference_mode():
        model.model.norm.weight[3] = 40.0
        if model.model.layers[0].self_attn.q_proj.bias is not None:
            model.model.layers[0].self_attn.q_proj.bias.normal_()
        wanted = model(ids, output_hidden_states=True)
        turned = rotate(model)
        found = turned(ids, output_hidden_states=True)
    torch.testing.assert_close(found.logits.log_softmax(-1), wanted.logits.log_softmax(-1), rtol=1e-3, atol=1e-3)
    before, after = (each.hidden_states[-1].abs().amax((0, 1)) for each in (wanted, found))
    assert after.max() / after.median() < before.max() / before.median() / 3
    assert turned.get_output_embeddings().weight is not turned.get_input_embeddings().weight
    assert model.model.norm.weight[3] == 40.0
    assert can_rotate(model) and not any(can_rotate(tiny.tiny_model(other)) for other in ("t5", "gemma3", "gpt2"))


def test_a_student_whose_head_reads_outliers_is_turned_for_eight_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny.tiny_model("llama").config
    config.hidden_size, config.head_dim, config.intermediate_size, config.tie_word_embeddings = 64, 16, 128, True
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.05)
        model.lm_head.weight[:, 3] = 0.3  # The same for every token: no probability depends on it.
        model.model.norm.weight.fill_(2.0)
        model.model.norm.weight[3] = 120.0
    student = open_student(save(model, tmp_path / "student"))
    made = publish.export_student(student, "ctranslate2", tmp_path / "out", precision="int8", probes=PROBES)
    assert made.parity.log_prob < 0.03
    told = capsys.readouterr().err
    assert "nats off" in told and "once more, its channels turned" in told
    # The head is no longer the embedding: so many bytes more than one copy of it.
    assert made.bytes > 2 * model.lm_head.weight.numel() + sum(p.numel() for p in model.model.layers.parameters())


def test_an_onnx_export_reads_on_where_it_stopped(tmp_path: Path) -> None:
    student = wide_student("llama", tmp_path)
    made = publish.export_student(student, "onnx", tmp_path / "out", precision="fp32", probes=PROBES)
    engine = open_engine(made.folder)
    texts = [[5, 6, 7], [5, 6, 7, 8], [5, 6, 7, 8, 9, 10], [5, 6, 9], [5, 6, 9]]
    for ids in texts:
        with torch.inference_mode():
            wanted = student.loaded.model(torch.tensor([ids])).logits[0, -1].numpy()
        np.testing.assert_allclose(engine.following(ids, ids), wanted, atol=1e-3)
    with pytest.raises(ModelError, match="ONNX Runtime refuses"):
        engine.following([5] * 200, [5] * 200)
    served = specs_of([str(made.folder)])[0]
    choice = choose(served.ref, EngineOptions(device="cpu"), "cpu")
    assert choice.engine == "onnx" and "one text after the other" in choice.why
    server = start(served, choice, EngineOptions(device="cpu", threads=1), ServeLimits(), "cpu")
    assert server.facts.positions == student.loaded.model.config.max_position_embeddings
    jobs = [Job(engine.read(probe.source), 8) for probe in PROBES]
    server.run(jobs)
    written = engine.generate([probe.source for probe in PROBES], max_new_tokens=8)
    assert [job.future.result(0).text.strip() for job in jobs] == written
    (made.folder / "model.onnx").write_bytes(b"torn")
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it"):
        open_engine(made.folder)


@pytest.mark.slow
def test_the_two_graphs_of_an_encoder_decoder_share_weights_and_tell_nothing_of_this_machine(tmp_path: Path) -> None:
    student = tiny_student("t5", tmp_path)
    made = publish.export_student(student, "onnx", tmp_path / "out", precision="fp32", probes=PROBES)
    assert (made.folder / "model.onnx.data").stat().st_size <= student.generator.bytes
    assert not any(b".py" in (made.folder / name).read_bytes() for name in ("encoder.onnx", "decoder.onnx"))


@pytest.mark.slow
def test_an_encoder_decoder_in_onnx_bears_eight_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf.T5Config(**{**tiny._T5, "d_model": 256, "d_ff": 512, "d_kv": 64})
    student = open_student(save(hf.T5ForConditionalGeneration(config).eval(), tmp_path / "student"))
    made = publish.export_student(student, "onnx", tmp_path / "out", precision="int8", probes=PROBES)
    assert made.student_bytes / made.bytes > 2.8
