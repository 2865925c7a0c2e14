"""A teacher behind a server: its labels are those of the same model in memory, and no answer is paid for twice.

llama.cpp runs for real. vLLM does not run on these machines: a small server answers in its documented form, out of a
real model.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import tiny_server
from command import instil
from instil.core.errors import LabelError, ModelError
from instil.data.prompts import Prompt
from instil.data.tokens import Encoded
from instil.labels.codec import Codec
from instil.labels.served import ServedTeacher
from instil.labels.store import LabelStore, StoreManifest
from instil.labels.teacher import Teacher
from instil.labels.writer import write_labels
from instil.models.config import ServedConfig
from instil.models.family import family_of
from instil.models.generation import TransformersGenerator
from instil.models.served import Endpoint, Pace, ServedGenerator
from instil.objectives.fused import Mix, row_loss
from instil.objectives.sparse import SparseLabels
from instil.run.pipeline import Pipeline
from instil.run.recipe_file import read_recipe
from instil.run.teachers import rank_teachers
from instil.train.live import dense_labels
from project import models_folder, project
from test_labels import MADE_FROM, make_examples, open_store

HEAD = 8
CODEC = Codec.top(HEAD, tiny.PADDED_VOCABULARY)
PLAIN = tiny.FIRST_BYTE + 60
Answer = tuple[int, dict[str, Any], dict[str, str]]
"""Status, body and headers."""


def in_memory() -> Teacher:
    """The served model itself."""
    model = tiny.tiny_model("qwen3")
    return Teacher(model=model, family=family_of(model, pad_id=tiny.PAD))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokenizer = tiny.tiny_tokenizer("decoder-only")
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tiny_server.write_gguf(tiny.tiny_model("qwen3"), words, path)
    with tiny_server.llama_cpp(path) as url:
        yield url


@contextmanager
def answering(answer: Callable[[str, dict[str, Any]], Answer]) -> Iterator[str]:
    """The address of a server that gives `answer(path, body)` to each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            status, found, headers = answer(self.path, body)
            content = json.dumps(found).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


MODELS: Answer = (200, {"data": [{"id": "tiny"}]}, {})


def vllm(model: Any, asked: list[dict[str, Any]]) -> Callable[[str, dict[str, Any]], Answer]:
    """Answers in vLLM's form: the log-probabilities of a prompt's own tokens, by id, the token itself among them."""

    def answer(path: str, body: dict[str, Any]) -> Answer:
        if path.endswith("/models"):
            return MODELS
        asked.append(body)
        ids = torch.tensor([body["prompt"]])
        with torch.inference_mode():
            listed = model(ids).logits[0].log_softmax(-1)
        rows: list[Any] = [None]
        for place, token in enumerate(body["prompt"][1:]):
            top = {*listed[place].topk(body["prompt_logprobs"]).indices.tolist(), token}
            rows.append({str(each): {"logprob": float(listed[place, each]), "rank": 1} for each in top})
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 1}
        return 200, {"choices": [{"text": "", "prompt_logprobs": rows}], "usage": usage}, {}

    return answer


def served(url: str, **options: Any) -> ServedTeacher:
    config = ServedConfig(url=url, **{"retries": 2, "concurrency": 2, **options})
    return ServedTeacher(endpoint=Endpoint(config), vocabulary=tiny.PADDED_VOCABULARY, plain=PLAIN)


def label(teacher: ServedTeacher | Teacher, examples: Sequence[Encoded], folder: Path) -> StoreManifest:
    return write_labels(teacher, examples, folder, codec=CODEC, made_from=MADE_FROM)


def require_same_labels(one: LabelStore, other: LabelStore, examples: Sequence[Encoded], within: float) -> None:
    """Each id's probability differs by at most `within`."""
    wide = []
    for store in (one, other):
        ids_NK, probs_NK = store.read(examples)
        wide.append(torch.zeros(len(ids_NK), tiny.PADDED_VOCABULARY).scatter_add_(1, ids_NK.clamp_min(0), probs_NK))
    assert ((wide[0] - wide[1]).abs().amax(-1) <= within).float().mean() == 1
    assert (wide[0].argmax(-1) == wide[1].argmax(-1)).float().mean() > 0.95


def test_labels_of_llama_cpp_are_those_of_the_model_in_memory(llama: str, tmp_path: Path) -> None:
    examples = make_examples(20)
    found = label(served(llama), examples, tmp_path / "served").measured
    wanted = label(in_memory(), examples, tmp_path / "memory").measured
    # Its cache is in half precision; the last of the eight may be another id of the same probability.
    require_same_labels(open_store(tmp_path / "served"), open_store(tmp_path / "memory"), examples, 0.03)
    assert found["rows"] == wanted["rows"] and found["head_entries"] == HEAD
    assert found["head_mass"] == pytest.approx(wanted["head_mass"], abs=0.01)
    assert found["top1_agreement"] == pytest.approx(wanted["top1_agreement"], abs=0.03)
    assert found["unlisted"] > 0 and found["loss"] <= wanted["loss"] + 0.01, "at least so much, never more"


def test_its_own_texts_take_few_requests(tmp_path: Path) -> None:
    prompt = (5, 9, 100)
    model = tiny.tiny_model("qwen3")
    written = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, 3:].tolist()
    # Whole words, since llama.cpp lists no token that ends inside a character.
    tiny_server.write_gguf(model, [f"w{number}" for number in range(tiny.VOCABULARY)], tmp_path / "tiny.gguf")
    with tiny_server.llama_cpp(tmp_path / "tiny.gguf") as url:
        found = label(served(url), [Encoded("own", prompt, tuple(written))], tmp_path / "store").measured
    assert found["top1_agreement"] == 1 and found["requests"] == 5, "1, 2, 4, 8 tokens, and the last one"


def test_labels_of_a_server_that_scores_prompts(tmp_path: Path) -> None:
    examples, asked = make_examples(20), []
    model = in_memory().model
    with answering(vllm(model, asked)) as url:
        found = label(served(url, usd_per_million_input=1e6), examples, tmp_path / "served").measured
    wanted = label(in_memory(), examples, tmp_path / "memory").measured
    require_same_labels(open_store(tmp_path / "served"), open_store(tmp_path / "memory"), examples, 2e-5)
    assert found["requests"] == len(examples) and len(asked) == len(examples) + 1
    assert found["usd"] == found["input_tokens"] == sum(example.length for example in examples)
    for name in ("loss", "head_mass", "top1_agreement", "target_in_head"):
        assert found[name] == pytest.approx(wanted[name], abs=1e-4), name


def test_a_run_that_broke_off_asks_for_nothing_twice(tmp_path: Path) -> None:
    examples, asked = make_examples(12), []
    whole = vllm(in_memory().model, asked)
    broken = threading.Event()

    def answer(path: str, body: dict[str, Any]) -> Answer:
        if len(asked) > 6 and not broken.is_set():
            return 400, {"error": {"message": "context length exceeded"}}, {}
        return whole(path, body)

    with answering(answer) as url:
        with pytest.raises(ModelError, match=r"refuses the request.*context length exceeded"):
            label(served(url), examples, tmp_path)
        broken.set()
        found = label(served(url), examples, tmp_path).measured
    prompts = [tuple(body["prompt"]) for body in asked if len(body["prompt"]) > 2]
    assert len(prompts) == len(set(prompts)) == found["requests"] == 12
    assert [path.name for path in tmp_path.glob(".answers*")] == []


def test_an_answer_behind_a_line_that_a_kill_tore_is_kept(tmp_path: Path) -> None:
    examples, asked = make_examples(4), []
    aside = tmp_path / "answers"
    with answering(vllm(in_memory().model, asked)) as url:
        for count in (1, 2, 3):
            served(url).label(examples[:count], CODEC, aside=aside, advance=lambda _: None)
            if count == 1:
                aside.write_text(aside.read_text(encoding="utf8") + '{"id": "rec', encoding="utf8")
    prompts = [tuple(body["prompt"]) for body in asked if len(body["prompt"]) > 2]
    assert len(prompts) == len(set(prompts)) == 3


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    examples, asked, refused = make_examples(6), [], []
    whole = vllm(in_memory().model, asked)

    def answer(path: str, body: dict[str, Any]) -> Answer:
        if len(refused) < 2:
            refused.append(path)
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"}
        return whole(path, body)

    with answering(answer) as url:
        assert label(served(url), examples, tmp_path).measured["requests"] == 6
    assert len(refused) == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "key_env"), (404, "teacher.served.url"), (429, "still busy after 1 try|still busy at once"), (503, "busy")],
)
def test_a_refusal_is_one_line(status: int, words: str, tmp_path: Path) -> None:
    with (
        answering(lambda _path, _body: (status, {"error": {"message": "no\nway"}}, {})) as url,
        pytest.raises(ModelError, match=words) as caught,
    ):
        label(served(url, retries=0), make_examples(2), tmp_path)
    assert "\n" not in str(caught.value) and url in str(caught.value)


def test_nobody_at_the_address(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no answer at once .*start the server"):
        label(served("http://127.0.0.1:9/v1", retries=0), make_examples(2), tmp_path)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(ModelError, match="TEACHER_KEY has no key; set it"):
        label(served("http://127.0.0.1:9/v1", key_env="TEACHER_KEY"), make_examples(2), tmp_path)


def test_several_models_at_a_server_ask_for_a_choice() -> None:
    with (
        answering(lambda _path, _body: (200, {"data": [{"id": "one"}, {"id": "two"}]}, {})) as url,
        pytest.raises(ModelError, match=r"2 models \(one, two\); set teacher.served.model"),
    ):
        _ = served(url).endpoint.model


def test_a_server_without_token_ids_is_refused(tmp_path: Path) -> None:
    def answer(path: str, _: dict[str, Any]) -> Answer:
        texts = {"tokens": [" a"], "token_logprobs": [-0.1], "top_logprobs": [{" a": -0.1}]}
        return MODELS if path.endswith("/models") else (200, {"choices": [{"text": " a", "logprobs": texts}]}, {})

    with answering(answer) as url, pytest.raises(LabelError, match=r"names no token ids.*alpha: 0"):
        label(served(url), make_examples(2), tmp_path)


def test_another_models_ids_are_refused(tmp_path: Path) -> None:
    with answering(vllm(in_memory().model, [])) as url, pytest.raises(LabelError, match=r"lists id \d+.*has 5;"):
        label(
            ServedTeacher(endpoint=Endpoint(ServedConfig(url=url)), vocabulary=5, plain=4), make_examples(3), tmp_path
        )


def test_the_pace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", slept.append)
    pace = Pace(60)
    for amount in (1, 2, 1):
        pace.wait(amount)
    assert slept == [0, 1, 3]
    now[0] = 200
    pace.wait(1)
    assert slept[-1] == 0, "a pause is not saved up"


def test_a_served_model_writes_what_it_writes_in_memory(llama: str) -> None:
    tokenizer, prompt = tiny.tiny_tokenizer("decoder-only"), Prompt(kind="prefix", text="sum: ")
    sources = ["red dog", "a green cat runs", "tree"]
    memory = TransformersGenerator(
        tiny.tiny_model("qwen3"), tokenizer, prompt, name="teacher", max_source_tokens=32
    ).generate(sources, max_new_tokens=6)  # fmt: skip
    endpoint = Endpoint(ServedConfig(url=llama))
    generator = ServedGenerator(endpoint, tokenizer, prompt, name="teacher", max_source_tokens=32)
    assert [len(text) for text in generator.generate(sources, max_new_tokens=6, batch_size=2)] == [
        len(text) for text in memory
    ]
    drawn = generator.candidates(sources, 3, max_new_tokens=6, sample=2.0, seed=1)
    assert [len(set(texts)) for texts in drawn] == [3, 3, 3]
    assert drawn == generator.candidates(sources, 3, max_new_tokens=6, sample=2.0, seed=1)


@pytest.mark.timeout(300)
def test_a_whole_run_with_a_served_teacher(llama: str, tmp_path: Path) -> None:
    folder = project(
        tmp_path / "run", "qwen3", pairs=60, teacher={"teach": None, "served": {"url": llama}},
        labels={"head": 6, "temperatures": [1.0], "targets": "teacher", "candidates": 2, "sample": 1.0},
        distil={"temperature": 1.0, "without_teacher": False},
    )  # fmt: skip
    ended = instil("run", "recipe.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    assert set(json.loads(ended.out)) >= {"teacher", "student"}
    store = next(folder.glob("runs/qwen3/label-*"))
    shown = json.loads(instil("labels", "show", str(store), "--json", cwd=folder).out)
    assert shown["measured"]["requests"] > 0
    assert "requests" in instil("labels", "show", str(store), cwd=folder).out
    again = instil("run", "recipe.yaml", cwd=folder)
    assert "label: reused" in again.err, again.err


def test_a_server_scores_what_a_student_writes(tmp_path: Path) -> None:
    """All ids of a server are the dense labels of the model itself."""
    examples, asked = make_examples(6), []
    teacher = in_memory()
    student = tiny.tiny_model("qwen3", seed=1)
    rows = family_of(student, pad_id=tiny.PAD).rows(student, teacher.family.collate(examples))
    with answering(vllm(teacher.model, asked)) as url:
        ids_NK, probs_NK = served(url).score(examples, tiny.PADDED_VOCABULARY)
        head_NK, _ = served(url).score(examples, HEAD)
    mix = Mix(soft=1.0, hard=0.0, divergence="jsd")
    losses = [
        row_loss(rows.hidden_ND, rows.head.weight_VD, rows.target_N, mix=mix, labels=labels).soft
        for labels in (SparseLabels(ids_NK=ids_NK, probs_NK=probs_NK), dense_labels(teacher.rows(examples)))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert head_NK.shape == (len(rows.target_N), HEAD) and torch.equal(head_NK[:, 0], ids_NK[:, 0])


@pytest.mark.timeout(300)
def test_a_student_that_writes_for_a_served_teacher(llama: str, tmp_path: Path) -> None:
    folder = project(
        tmp_path / "run", "qwen3", pairs=20, teacher={"teach": None, "served": {"url": llama}},
        labels={"head": 6, "temperatures": [1.0], "targets": "gold"},
        distil={
            "temperature": 1.0, "without_teacher": False, "divergence": "reverse_kl",
            "on_policy": {"share": 1, "max_new_tokens": 4},
            "loop": {"budget": {"steps": 2}, "batch_tokens": 200, "trackers": []},
        },
    )  # fmt: skip
    ended = instil("distil", "recipe.yaml", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)["result"]
    assert result["soft"] > 0 and result["writing_share"] > 0


def test_a_served_teacher_writes_the_lesson_and_is_ranked(llama: str, tmp_path: Path) -> None:
    teacher = {"model": str(models_folder() / "qwen3"), "served": {"url": llama}}
    folder = project(
        tmp_path / "run", "qwen3", pairs=60, teacher={"teach": None, **teacher}, teachers=[teacher],
        synthetic={"records": 3, "ask": "New:", "shots": 1}, limits={"source": 40, "target": 8},
        labels={"temperatures": [1.0]}, distil={"temperature": 1.0},
    )  # fmt: skip
    pipeline = Pipeline(read_recipe(folder / "recipe.yaml"), folder)
    made = [record for record in pipeline.lesson.splits["train"] if record.id.startswith("synthetic-")]
    assert 0 < len(made) <= 3 and all(record.targets[0] for record in made)
    (row,) = rank_teachers(pipeline.recipe, folder, items=2)
    assert row["access"] == "API" and row["bits_per_character"] is None and row["outputs"] == "unknown"


def test_a_recipe_that_a_server_cannot_serve_is_refused(tmp_path: Path) -> None:
    folder = project(
        tmp_path / "run", "qwen3", teacher={"teach": None, "served": {"url": "http://127.0.0.1:9"}},
        labels={"temperatures": [2.0]},
    )  # fmt: skip
    ended = instil("label", "recipe.yaml", cwd=folder)
    assert ended.code == 2 and "temperature 1; leave labels.detail" in ended.err, ended.err
