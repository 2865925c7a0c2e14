"""A real server over tiny models, asked by the clients that people have."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import serving
import tiny
from instil.data.prompts import Prompt
from instil.serve.cache import AnswerCache
from instil.serve.config import Limits, ModelSpec
from instil.serve.jobs import Job
from instil.serve.keys import add_key
from instil.serve.requests import NEUTRAL

JSON = {"Content-Type": "application/json"}
PROMPT = Prompt(kind="template", text="{source} ->")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    for name in ("qwen3", "t5"):
        serving.write_model(root / name, name)
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[serving.Running]:
    student = ModelSpec(name="student", ref=str(models / "qwen3"), prompt=PROMPT, max_new_tokens=6)
    bare = ModelSpec(name="bare", ref=str(models / "qwen3"), max_new_tokens=6)
    encoder = ModelSpec(name="t5", ref=str(models / "t5"), max_new_tokens=6)
    with serving.running(serving.config_of(student, bare, encoder)) as found:
        yield found


def test_an_answer_on_an_open_connection_waits_for_no_acknowledgement(server: serving.Running) -> None:
    """A second small packet waits 40 ms for that of the first where Nagle's algorithm is on."""
    body = {"model": "student", "inputs": ["one two"], "max_new_tokens": 4}
    times = []
    with httpx.Client() as client:
        for _ in range(60):
            begun = time.perf_counter()
            client.post(f"{server.url}/v1/generate", json=body).raise_for_status()
            times.append(time.perf_counter() - begun)
    assert min(times[30:]) < 0.035, "the first ones are acknowledged at once"


def greedy(text: str, count: int) -> str:
    """What transformers itself writes."""
    model, tokenizer = tiny.tiny_model("qwen3"), tiny.tiny_tokenizer("decoder-only")
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        written = model.generate(ids, max_new_tokens=count, do_sample=False)[0, ids.shape[1] :]
    return str(tokenizer.decode(written, skip_special_tokens=True))


def test_the_openai_client_completes(server: serving.Running) -> None:
    answer = server.client().completions.create(model="bare", prompt=["hello", "a much longer text"], max_tokens=5)
    assert [choice.text for choice in answer.choices] == [greedy("hello", 5), greedy("a much longer text", 5)]
    assert answer.usage is not None and answer.usage.prompt_tokens == len("hello") + len("a much longer text")


def test_the_openai_client_streams_the_same_text(server: serving.Running) -> None:
    client = server.client()
    whole = client.completions.create(model="bare", prompt="stream me", max_tokens=6).choices[0].text
    server.service.models["bare"].cache = AnswerCache(10**6)
    chunks = list(
        client.completions.create(
            model="bare", prompt="stream me", max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage.completion_tokens == 6
    assert chunks[-2].choices[0].finish_reason == "length"


def test_the_openai_client_chats_with_the_prompt_that_the_student_learned(server: serving.Running) -> None:
    said: Any = [{"role": "user", "content": "hello"}]
    answer = server.client().chat.completions.create(model="student", messages=said, max_tokens=5)
    assert answer.choices[0].message.content == greedy("hello ->", 5)
    stream = server.client().chat.completions.create(model="student", messages=said, max_tokens=5, stream=True)
    pieces = [chunk.choices[0].delta for chunk in stream]
    assert pieces[0].role == "assistant"
    assert "".join(piece.content or "" for piece in pieces) == greedy("hello ->", 5)


def test_models_are_listed_with_what_runs_them(server: serving.Running) -> None:
    found = {model.id: model for model in server.client().models.list()}
    assert list(found) == ["student", "bare", "t5"]
    assert found["t5"].engine == "transformers" and found["t5"].family == "encoder-decoder"


def test_plain_texts_come_back_in_their_order(server: serving.Running) -> None:
    texts = ["one", "a longer second one", "3"]
    found = httpx.post(f"{server.url}/v1/generate", json={"inputs": texts, "max_new_tokens": 4}).json()
    assert found["outputs"] == [greedy(f"{text} ->", 4).strip() for text in texts]


def test_plain_texts_are_drawn_and_stopped_as_asked(server: serving.Running) -> None:
    def write(**asked: Any) -> str:
        body = {"inputs": ["one"], "max_new_tokens": 6, **asked}
        return str(httpx.post(f"{server.url}/v1/generate", json=body).json()["outputs"][0])

    whole = greedy("one ->", 6)
    assert write(stop=whole[2]) == whole[: whole.index(whole[2])].strip()
    drawn = [write(temperature=1.5, top_p=0.95, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_openai_asks_for_nothing_with_is_taken(server: serving.Running) -> None:
    neutral = {name: values[0] for name, values in NEUTRAL.items()} | {"user": "ada", "metadata": {"a": "b"}}
    body = {"model": "bare", "prompt": "hello", "max_tokens": 5, **neutral}
    found = httpx.post(f"{server.url}/v1/completions", json=body).json()
    assert found["choices"][0]["text"] == greedy("hello", 5)


def test_the_guide_names_all_that_is_refused() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf8")
    for name in (*NEUTRAL, "tools", "functions", "response_format"):
        assert f"`{name}`" in guide, name


def test_both_families_write(server: serving.Running) -> None:
    found = server.client().completions.create(model="t5", prompt=["hello", "du"], max_tokens=6)
    model, tokenizer = tiny.tiny_model("t5"), tiny.tiny_tokenizer("encoder-decoder")
    for text, choice in zip(("hello", "du"), found.choices, strict=True):
        written = model.generate(tokenizer(text, return_tensors="pt")["input_ids"], max_new_tokens=6, do_sample=False)
        assert choice.text == tokenizer.decode(written[0], skip_special_tokens=True)


def test_echoed_prompts_have_the_probabilities_of_the_model(server: serving.Running) -> None:
    ids = [10, 40, 70, 100]
    found = httpx.post(
        f"{server.url}/v1/completions",
        json={"model": "bare", "prompt": [ids, ids[:2]], "max_tokens": 1, "echo": True, "logprobs": 1, "seed": 1234},
    ).json()["choices"]
    with torch.inference_mode():
        log_probs = torch.log_softmax(tiny.tiny_model("qwen3")(torch.tensor([ids])).logits[0], -1)
    wanted = [float(log_probs[place, token]) for place, token in enumerate(ids[1:])]
    scores = found[0]["logprobs"]
    assert scores["token_logprobs"][0] is None and len(scores["token_logprobs"]) == len(ids) + 1
    assert scores["token_logprobs"][1 : len(ids)] == pytest.approx(wanted, abs=1e-4)
    best = [max(top.values()) for top in scores["top_logprobs"][1 : len(ids)]]
    assert best == pytest.approx(log_probs[: len(ids) - 1].max(-1).values.tolist(), abs=1e-4)
    assert len(found[1]["logprobs"]["token_logprobs"]) == 3


def test_lm_eval_scores_against_it(server: serving.Running, models: Path) -> None:
    completions = pytest.importorskip("lm_eval.models.openai_completions")
    from lm_eval.api.instance import Instance

    model = completions.LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions", model="bare", tokenizer=str(models / "qwen3"),
        tokenizer_backend="huggingface", batch_size=2,
    )  # fmt: skip
    asked = [
        Instance("loglikelihood", {}, (before, after), number)
        for number, (before, after) in enumerate((("one two", " three"), ("four", " five")))
    ]
    for (found, _), instance in zip(model.loglikelihood(asked), asked, strict=True):
        before, after = (tiny.tiny_tokenizer("decoder-only")(text)["input_ids"] for text in instance.args)
        ids = torch.tensor([[*before, *after]])
        with torch.inference_mode():
            log_probs = torch.log_softmax(tiny.tiny_model("qwen3")(ids).logits[0], -1)
        wanted = sum(float(log_probs[len(before) + place - 1, token]) for place, token in enumerate(after))
        assert found == pytest.approx(wanted, abs=1e-3)


def test_a_second_asking_is_answered_from_the_cache_and_sampling_is_not(server: serving.Running) -> None:
    client, model = server.client(), server.service.models["bare"]
    before = model.cache.hits
    for _ in range(2):
        client.completions.create(model="bare", prompt="again", max_tokens=3)
    assert model.cache.hits == before + 1
    drawn = [
        client.completions.create(model="bare", prompt="again", max_tokens=8, temperature=1.5, seed=seed)
        .choices[0]
        .text
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert model.cache.hits == before + 1


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("completions", {"model": "nobody", "prompt": "x"}, 404, "choose one of student, bare, t5"),
        ("completions", {"prompt": ""}, 400, "the prompt is empty"),
        ("completions", {"prompt": "x" * 500}, 400, "has room for 128 tokens"),
        ("completions", {"model": "t5", "prompt": "word " * 3000}, 400, "for 128 tokens, but the prompt has 15001"),
        ("generate", {"model": "t5", "inputs": ["x", "word " * 20000]}, 400, "has room for 128 tokens"),
        ("completions", {"prompt": "x", "max_tokens": 5000}, 400, "more than 1024"),
        ("completions", {"prompt": [9999]}, 400, "no token of"),
        ("completions", {"prompt": "x", "best_of": 3}, 400, "best_of is not supported"),
        ("completions", {"prompt": "x", "temperature": -1}, 400, "temperature"),
        ("completions", {"model": "t5", "prompt": "x", "echo": True}, 400, "does not write its prompt"),
        ("completions", {"prompt": ["x"] * 65}, 400, "at most 64"),
        ("chat/completions", {"messages": [{"role": "system", "content": "x"}]}, 400, "one message, of the role user"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, 400, "not supported"),
        ("completions", {"prompt": "x", "top_k": 5}, 400, "top_k is not supported"),
        ("generate", {"inputs": []}, 400, "inputs"),
        ("generate", {"inputs": ["x"], "max_tokens": 3}, 400, "max_tokens: no such field here; leave it out"),
        ("generate", {"inputs": ["x"], "temperature": 3}, 400, "temperature"),
        ("generate", {"inputs": ["x"], "model": "../../etc/passwd"}, 404, "is not served"),
    ],
)
def test_what_cannot_be_done_is_said(
    server: serving.Running, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    answer = httpx.post(f"{server.url}/v1/{path}", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("generate", "inputs", ["x", "\ud83d"]),
        ("generate", "stop", "a\ude00"),
        ("generate", "\ud83d", 1),
        ("completions", "prompt", "half \ud83d"),
        ("completions", "prompt", ["x", "\ud83d"]),
        ("completions", "model", "\ud83d"),
        ("chat/completions", "messages", [{"role": "user", "content": "\ud83d"}]),
        ("chat/completions", "messages", [{"role": "user", "content": [{"type": "text", "text": "\ud83d"}]}]),
    ],
)
def test_half_a_character_is_refused(server: serving.Running, path: str, name: str, value: Any, stream: bool) -> None:
    body = {name: value} | ({"stream": True} if stream and path != "generate" else {})
    answer = httpx.post(f"{server.url}/v1/{path}", content=json.dumps(body), headers=JSON)
    shown = name.encode("ascii", "backslashreplace").decode()
    assert answer.status_code == 400, answer.text
    said = answer.json()["error"]["message"]
    assert said == f"{shown} holds half a character (a lone surrogate); send whole ones"


def test_whole_characters_beyond_the_first_plane_are_taken(server: serving.Running) -> None:
    body = {"inputs": "\N{GRINNING FACE}", "max_new_tokens": 1}
    assert httpx.post(f"{server.url}/v1/generate", content=json.dumps(body), headers=JSON).status_code == 200


def test_a_huge_request_is_refused_unread(server: serving.Running) -> None:
    answer = httpx.post(f"{server.url}/v1/generate", content=b"x" * 1_100_000)
    assert answer.status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 50_000

    assert httpx.post(f"{server.url}/v1/generate", content=pieces()).status_code == 413


def test_health_metrics_and_the_log_tell_no_text(server: serving.Running) -> None:
    secret = "Geheimnis"
    server.client().completions.create(model="bare", prompt=secret, max_tokens=2)
    assert httpx.get(f"{server.url}/healthz").status_code == httpx.get(f"{server.url}/readyz").status_code == 200
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'instil_requests_total{path="/v1/completions",status="200"}' in metrics
    assert 'instil_queue{model="bare"} 0.0' in metrics
    assert secret not in metrics + "".join(server.lines)
    last = json.loads(server.lines[-1])
    assert (last["path"], last["status"], last["model"], last["new_tokens"]) == ("/v1/completions", 200, "bare", 2)


def test_no_browser_page_of_elsewhere_may_call(server: serving.Running) -> None:
    answer = httpx.get(f"{server.url}/v1/models", headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_full_queue_is_answered_429_and_the_openai_client_comes_back(models: Path) -> None:
    spec = ModelSpec(name="m", ref=str(models / "qwen3"), max_new_tokens=4)
    with serving.running(serving.config_of(spec, limits=Limits(batch=1, queue=2, cache_mb=0))) as server:
        model = server.service.models["m"]
        let_go = threading.Event()
        blocker = Job([5], 2, listener=lambda _: let_go.wait(20) and None)
        model.submit([blocker])
        while len(model.room):
            pass
        waiting = [Job([6], 1), Job([7], 1)]
        model.submit(waiting)
        refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x"})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{server.url}/metrics").text.count('instil_refused_total{model="m"} 1.0') == 1
        threading.Timer(0.3, let_go.set).start()
        again = server.client().with_options(max_retries=3).completions.create(model="m", prompt="x", max_tokens=1)
        assert again.choices[0].text == greedy("x", 1)
        assert all(job.future.result(5).new_tokens == 1 for job in waiting)


class Held:
    """A job that holds its engine at its first token until it is let go."""

    def __init__(self) -> None:
        self.let_go, self.reached = threading.Event(), threading.Event()
        self.job = Job([5], 2, listener=self._hear)

    def _hear(self, _: str) -> None:
        self.reached.set()
        self.let_go.wait(20)


def test_a_client_that_goes_away_while_it_is_served_leaves_the_others_their_engine(models: Path) -> None:
    spec = ModelSpec(name="m", ref=str(models / "qwen3"), max_new_tokens=4)
    with serving.running(serving.config_of(spec, limits=Limits(batch=2, cache_mb=0))) as server:
        model, first, beside = server.service.models["m"], Held(), Held()
        model.submit([first.job])
        assert first.reached.wait(20)
        model.submit([beside.job])

        def go_away() -> None:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/v1/completions", json={"prompt": "x"}, timeout=2)

        client = threading.Thread(target=go_away)
        client.start()
        while len(model.room) < 2:
            pass
        first.let_go.set()  # The next batch is the held job and the client's.
        assert beside.reached.wait(20)
        client.join()
        while '"status": 499' not in "".join(server.lines):
            time.sleep(0.05)
        beside.let_go.set()
        again = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 1}, timeout=20)
        assert again.json()["choices"][0]["text"] == greedy("x", 1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_is_told_while_the_engine_is_busy(models: Path, stream: bool) -> None:
    spec = ModelSpec(name="m", ref=str(models / "qwen3"), max_new_tokens=4)
    with serving.running(serving.config_of(spec, limits=Limits(batch=1, cache_mb=0))) as server:
        held = Held()
        server.service.models["m"].submit([held.job])
        assert held.reached.wait(20)
        body = {"prompt": "x", "deadline_s": 0.3, "stream": stream}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=15)
        assert not held.let_go.is_set()
        assert "the deadline passed" in answer.text
        assert stream or answer.status_code == 504
        assert 'instil_expired{model="m"} 1.0' in httpx.get(f"{server.url}/metrics").text
        held.let_go.set()


def test_only_who_has_a_key_is_served(models: Path, tmp_path: Path) -> None:
    from openai import AuthenticationError

    key = add_key(tmp_path / "keys", "ada")
    spec = ModelSpec(name="m", ref=str(models / "qwen3"), max_new_tokens=2)
    with serving.running(serving.config_of(spec, keys=tmp_path / "keys")) as server:
        with pytest.raises(AuthenticationError):
            server.client("instil-wrong").models.list()
        assert server.client(key).completions.create(model="m", prompt="x").choices[0].finish_reason == "length"
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert json.loads(server.lines[-1])["key"] == "ada" and key not in "".join(server.lines)


@pytest.mark.timeout(100)
def test_a_fuzzer_finds_no_fault_of_the_server(server: serving.Running) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def attack(case: Any) -> None:
            nonlocal tried
            answer = case.call(timeout=20)
            assert answer.status_code < 500, (answer.status_code, case.as_curl_command())
            tried += 1

        attack()
    assert tried > 50
