"""Every engine writes what the reference writes; a draft changes nothing; a child that dies comes back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving
import tiny
from command import instil
from instil.core.errors import ModelError
from instil.data.prompts import Prompt
from instil.export.sheet import SHEET_NAME
from instil.run.servable import specs_of
from instil.serve.config import EngineOptions, Limits, ModelSpec
from instil.serve.engines.base import Writer
from instil.serve.engines.child import visible_gpu, vllm_command
from instil.serve.engines.choose import choose, start
from instil.serve.engines.llama_engine import _Reply
from instil.serve.engines.stepwise_engine import chosen
from instil.serve.jobs import Answer, Job, Sampling, ServeError
from instil.serve.service import Service

PROMPTS = ("hello", "a longer text to go on with", "?")
NEW = 8


@contextmanager
def engine(ref: Path, **options: Any) -> Iterator[Any]:
    asked = EngineOptions(**{"device": "cpu", "threads": 1, "context": serving.ROOM, **options})
    spec = ModelSpec(name="m", ref=str(ref))
    found = start(spec, choose(str(ref), asked, "cpu"), asked, Limits(batch=3), "cpu")
    try:
        yield found
    finally:
        found.close()


def write(found: Any, **more: Any) -> list[Answer]:
    jobs = [Job(list(found.tokenizer(prompt)["input_ids"]), NEW, **more) for prompt in PROMPTS]
    found.run(jobs)
    return [job.future.result(0) for job in jobs]


def texts(ref: Path, **options: Any) -> list[str]:
    with engine(ref, **options) as found:
        return [answer.text for answer in write(found)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engines")
    for name in ("qwen3", "bart"):
        serving.write_model(root / name, name)
    serving.write_gguf(root / "gguf")
    return root


def exported(folder: Path, to: Path, target: Any = "ctranslate2") -> Path:
    """The model of `folder` in another format."""
    from instil.export.parity import Probe
    from instil.export.publish import export_student
    from instil.export.student import open_student

    export_student(open_student(folder), target, to, precision="fp32", probes=[Probe("some text")])
    return to


def test_ctranslate2_writes_what_the_reference_writes(place: Path, tmp_path: Path) -> None:
    assert texts(exported(place / "qwen3", tmp_path / "ct2")) == texts(place / "qwen3")


@pytest.mark.parametrize("name", ["qwen3", "bart"])
def test_openvino_writes_what_the_reference_writes(name: str, place: Path, tmp_path: Path) -> None:
    with engine(exported(place / name, tmp_path / "out", "openvino")) as found:
        written = write(found)
        assert [answer.text for answer in written] == texts(place / name)
        assert [answer.text for answer in write(found, sampling=Sampling(1.0, 1e-9, 1))] == texts(place / name)
        pieces: list[str] = []
        (job,) = jobs = [Job(list(found.tokenizer(PROMPTS[0])["input_ids"]), 3, listener=pieces.append)]
        found.run(jobs)
    assert "".join(pieces) == job.future.result(0).text == written[0].text[: len(job.text)]
    assert (job.new_tokens, job.future.result(0).ended) == (3, "length")
    with pytest.raises(ModelError, match=r"ctranslate2 cannot run what is there \(openvino\)"):
        choose(str(tmp_path / "out"), EngineOptions(engine="ctranslate2"), "cpu")


def test_draws_follow_the_probabilities() -> None:
    generator, logits_V = np.random.default_rng(0), np.log([0.5, 0.1, 0.4])
    draws = [chosen(logits_V, Sampling(1.0), generator) for _ in range(4000)]
    assert np.bincount(draws) / 4000 == pytest.approx([0.5, 0.1, 0.4], abs=0.03)
    assert {chosen(logits_V, Sampling(1.0, 0.8), generator) for _ in range(200)} == {0, 2}
    cold = [chosen(logits_V, Sampling(0.5), generator) for _ in range(4000)]
    assert np.bincount(cold)[0] / 4000 == pytest.approx(0.25 / 0.42, abs=0.03)


def test_ctranslate2_scores_like_the_reference(place: Path, tmp_path: Path) -> None:
    found = []
    for ref in (place / "qwen3", exported(place / "qwen3", tmp_path / "ct2")):
        with engine(ref) as each:
            found.append([score.logprob for score in write(each, scores=2, echo=True)[1].scores])
    assert found[0][0] is found[1][0] is None
    assert found[1][1:] == pytest.approx(found[0][1:], abs=1e-3)


def test_llama_cpp_writes_what_the_reference_writes(place: Path) -> None:
    assert texts(place / "gguf") == texts(place / "qwen3")


def test_a_draft_changes_no_text_and_its_guesses_are_counted(place: Path) -> None:
    with engine(place / "gguf", draft=str(place / "gguf" / "gguf.gguf"), draft_tokens=4) as found:
        assert [answer.text for answer in write(found)] == texts(place / "gguf")
        assert 0 < found.accepted <= found.drafted


def test_a_file_of_an_export_keeps_its_prompt_and_guesses_ahead_for_another(tmp_path: Path) -> None:
    prompt = Prompt(kind="template", text="Say: {source} =")
    serving.write_model(tmp_path / "model")
    recipe = {"prompt": prompt.model_dump(), "limits": {"source": 40, "target": 12}}
    (tmp_path / "model" / "recipe.yaml").write_text(json.dumps(recipe))
    files = [exported(tmp_path / "model", tmp_path / name, "gguf") / "model.gguf" for name in ("student", "teacher")]
    specs = specs_of([str(path) for path in files])
    assert [(spec.name, spec.ref) for spec in specs] == [(path.parent.name, str(path)) for path in files]
    assert (specs[0].prompt, specs[0].max_source_tokens, specs[0].max_new_tokens) == (prompt, 40, 12)
    config = serving.config_of(*specs)
    options = config.options.model_copy(update={"draft": specs[0].ref})
    service = Service(config.model_copy(update={"options": options}), say=lambda _: None)
    try:
        assert ["with the draft" in model.engine.facts.name for model in service.models.values()] == [False, True]
    finally:
        service.close()


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (("qwen3", "bart"), r"cannot guess ahead for bart on transformers; give GGUF files"),
        (("qwen3", "gguf"), r"qwen3 \(transformers\) cannot guess ahead for gguf on llama.cpp"),
        (("gguf",), "a single model has nobody to guess ahead for"),
    ],
)
def test_a_draft_that_nobody_would_use_is_refused(place: Path, models: tuple[str, ...], said: str) -> None:
    config = serving.config_of(*specs_of([str(place / name) for name in models]))
    options = config.options.model_copy(update={"draft": config.models[0].ref})
    with pytest.raises(ModelError, match=said):
        Service(config.model_copy(update={"options": options}), say=lambda _: None)


def test_the_draft_of_the_command_is_the_first_model_as_it_was_found(place: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a=b"
    shutil.copytree(place / "qwen3", odd)
    models = f"student={odd}", f"teacher={place / 'bart'}"
    ended = instil("serve", *models, "--speculative", "--device", "cpu", cwd=tmp_path)
    assert ended.code and f"{odd} (transformers) cannot guess ahead for teacher on transformers" in ended.said


def test_each_row_of_a_batch_has_its_own_limit_and_stop(place: Path) -> None:
    with engine(place / "qwen3") as found:
        whole = write(found)[0].text
        ids = list(found.tokenizer(PROMPTS[0])["input_ids"])
        jobs = [Job(ids, 2), Job(ids, NEW, stops=(whole[2],)), Job(ids, NEW)]
        found.run(jobs)
        short, stopped, free = (job.future.result(0) for job in jobs)
    assert (short.new_tokens, short.ended, short.text) == (2, "length", whole[:2])
    assert (stopped.text, stopped.ended) == (whole[: whole.index(whole[2])], "stop")
    assert free.text == whole


@pytest.mark.parametrize("target", ["ctranslate2", "openvino"])
def test_an_export_has_no_more_room_than_its_model_has_positions(target: str, place: Path, tmp_path: Path) -> None:
    with engine(exported(place / "bart", tmp_path / "out", target), context=2048) as found:
        assert found.facts.positions == serving.ROOM
        job = Job([5] * serving.ROOM, serving.ROOM if target == "ctranslate2" else 2)
        found.run([job])
        assert job.future.result(0).ended


def test_a_model_without_positions_has_the_room_of_the_context(tmp_path: Path) -> None:
    with engine(serving.write_model(tmp_path / "t5", "t5"), context=99) as found:
        assert found.facts.positions == 99
    with engine(serving.write_model(tmp_path / "bart", "bart"), context=99) as found:
        assert found.facts.positions == serving.ROOM


def test_what_llama_cpp_says_of_its_own_failure_is_no_word_for_clients() -> None:
    for code, kind in ((400, ModelError), (500, RuntimeError)):
        heard = _Reply(Job([1], 1))
        assert heard({"error": {"code": code, "message": "no memory"}})
        with pytest.raises(kind, match="no memory"):
            heard.finish()


def test_a_prompt_that_fails_does_not_fail_its_neighbours_and_only_the_log_says_why(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from instil.serve.metrics import Metrics
    from instil.serve.models import ServedModel

    out = exported(place / "bart", tmp_path / "out")
    sheet = json.loads((out / SHEET_NAME).read_text())
    assert sheet.pop("positions") == serving.ROOM  # As older exports are; CTranslate2 fails on too long a prompt.
    (out / SHEET_NAME).write_text(json.dumps(sheet))
    with engine(out, context=2048) as found:
        ids = list(found.tokenizer(PROMPTS[1])["input_ids"])
        jobs = [Job(ids, NEW), Job([5] * 500, NEW), Job(ids, NEW)]
        model = ServedModel(ModelSpec(name="m", ref=str(out)), found, Limits(batch=3, gather_ms=50), Metrics())
        model.submit(jobs)
        assert jobs[0].future.result(60).text == jobs[2].future.result(60).text == texts(place / "bart")[1]
        with pytest.raises(ServeError, match=r"^the engine failed; the server's log says why$") as told:
            jobs[1].future.result(60)
        assert told.value.status == 503 and "m: the engine failed: No position encodings" in capsys.readouterr().err
        model.close()


@pytest.mark.parametrize(("prompt", "stops"), [("x", ()), (PROMPTS[1], ()), (PROMPTS[1], ("7",))])
def test_llama_cpp_counts_the_tokens_of_characters_that_it_wrote_in_part(
    prompt: str, stops: tuple[str, ...], place: Path
) -> None:
    answers = []
    for ref in (place / "gguf", place / "qwen3"):
        with engine(ref) as found:
            job = Job(list(found.tokenizer(prompt)["input_ids"]), 20, stops=stops)
            found.run([job])
            answers.append(job.future.result(0))
    assert answers[0].new_tokens == answers[1].new_tokens
    assert answers[0].ended == answers[1].ended == ("stop" if stops else "length")


def test_llama_cpp_never_writes_what_the_sheet_forbids(place: Path, tmp_path: Path) -> None:
    from instil.export.engines import open_engine

    model = tiny.tiny_model("qwen3")
    ids = tiny.tiny_tokenizer("decoder-only")(PROMPTS[0])["input_ids"]
    model.generation_config.suppress_tokens = [tiny.tiny_tokenizer("decoder-only")("8")["input_ids"][0]]
    model.save_pretrained(tmp_path / "student")
    tiny.tiny_tokenizer("decoder-only").save_pretrained(tmp_path / "student")
    out = exported(tmp_path / "student", tmp_path / "out", "gguf")
    with engine(out) as found:
        job = Job(list(ids), NEW)
        found.run([job])
        proved = open_engine(out).write([list(ids)], NEW, 1)[0]
    assert "8" in texts(place / "gguf")[0] and "8" not in job.text
    assert job.text == found.tokenizer.decode(proved, skip_special_tokens=True)


def test_stops_and_streams_hold_for_a_slow_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    from test_vocabulary_pair import message, write_pair

    pieces = [("\u2581the", -1.0), ("\u2581cat", -2.0), ("\u2581sat", -3.0), ("s", -4.0)]
    table = {name: number for number, name in enumerate(["</s>", "<unk>", *dict(pieces), "<pad>"])}
    tokenizer = write_pair(tmp_path / "pair", message(pieces), message(pieces), table)
    assert not tokenizer.is_fast
    ids = [table[name] for name in ("\u2581the", "\u2581cat", "s", "\u2581sat", "\u2581the")]
    heard: list[str] = []
    streamed, stopped = Job([1], 9, listener=heard.append), Job([1], 9, stops=(" sat",))
    for job in (streamed, stopped):
        writer = Writer(job, tokenizer, frozenset())
        assert any(writer.take(token) for token in ids) == (job is stopped)
        writer.rest()
        job.finish()
    assert heard == ["the", " cat", "s", " sat", " the"]
    assert (stopped.text, stopped.future.result().ended, stopped.new_tokens) == ("the cats", "stop", 4)


def test_a_seed_makes_sampling_repeatable_on_every_engine(place: Path, tmp_path: Path) -> None:
    for ref in (place / "qwen3", place / "gguf", exported(place / "qwen3", tmp_path / "openvino", "openvino")):
        with engine(ref) as found:
            ids = list(found.tokenizer("draw")["input_ids"])
            drawn = []
            for seed in (1, 1, 2):
                job = Job(ids, NEW, Sampling(1.5, 0.95, seed))
                found.run([job])
                drawn.append(job.future.result(0).text)
        assert drawn[0] == drawn[1] != drawn[2], ref.name


def test_what_is_no_model_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"no model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="export"), engine(tmp_path):
        pass


def test_vllm_gets_its_share_of_the_gpu_and_none_of_the_models_habits() -> None:
    alone = vllm_command("m", 1, context=64, draft="d", draft_tokens=3)
    assert json.loads(alone[alone.index("--speculative-config") + 1])["num_speculative_tokens"] == 3
    assert alone[alone.index("--gpu-memory-utilization") + 1] == "0.900"
    shared = vllm_command("m", 1, context=64, models=3, draft_tokens=3)
    told = dict(zip(shared[3::2], shared[4::2], strict=True))
    assert (told["--gpu-memory-utilization"], told["--max-model-len"]) == ("0.300", "64")
    assert told["--generation-config"] == "vllm" and "--speculative-config" not in told


def test_a_child_sees_the_gpu_that_was_asked_for_among_those_that_we_see() -> None:
    assert visible_gpu("cuda", {}) == visible_gpu("cuda", {"CUDA_VISIBLE_DEVICES": "4,6"}) == {}
    assert visible_gpu("cuda:1", {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert visible_gpu("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,6"}) == {"CUDA_VISIBLE_DEVICES": "6"}
    with pytest.raises(ModelError, match="cuda:2: only 2 GPUs are visible"):
        visible_gpu("cuda:2", {"CUDA_VISIBLE_DEVICES": "4,6"})


@pytest.mark.slow
def test_a_child_server_is_watched_and_started_again(place: Path) -> None:
    from instil.data.tokens import encode_prompt
    from instil.serve.engines.child import CHILD_MODEL, ChildEngine, ChildServer, free_port

    port = free_port()
    command = [
        sys.executable, "-c", "from instil.run.cli import main; main()", "serve", f"{CHILD_MODEL}={place / 'gguf'}",
        "--port", str(port), "--context", "128", "--batch", "2", "--threads", "1",
    ]  # fmt: skip
    server = ChildServer(command, port, health="/healthz", start_s=100)
    tokenizer = tiny.tiny_tokenizer("decoder-only")
    found = ChildEngine(server, tokenizer, name="child", workers=2, positions=128)
    try:
        ids = encode_prompt(tokenizer, Prompt(), PROMPTS[0], None, "decoder-only")
        before = Job(ids, NEW)
        found.run([before])
        first = server.pid
        os.kill(first, signal.SIGKILL)
        until = time.monotonic() + 60
        while server.pid == first or not server.answers():
            assert time.monotonic() < until
            time.sleep(0.1)
        after = Job(ids, NEW)
        found.run([after])
        assert after.future.result(0).text == before.future.result(0).text == texts(place / "gguf")[0]
        torn = Job(encode_prompt(tokenizer, Prompt(), "x", None, "decoder-only"), 20)
        found.run([torn])
        assert (torn.future.result(0).ended, torn.new_tokens) == ("length", 20)
        stopped = Job(ids, NEW, stops=(before.text[2:4],))
        found.run([stopped])
        assert (stopped.text, stopped.future.result(0).ended) == (
            before.text[: before.text.index(stopped.stops[0])],
            "stop",
        )
    finally:
        found.close()
