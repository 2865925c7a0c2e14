"""The parts of the server by themselves: the queue, the cache, the keys, the choice of an engine, stops and streams."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import serving
from instil.core.errors import ConfigError, ModelError
from instil.run.servable import specs_of
from instil.serve.awake import stay_awake
from instil.serve.cache import AnswerCache, key_of
from instil.serve.config import EngineOptions, ModelSpec, ServeConfig
from instil.serve.engines.choose import choose
from instil.serve.jobs import Answer, Job, Sampling, ServeError
from instil.serve.keys import add_key, name_of, read_keys
from instil.serve.ray_app import deployment_options, serve_on_ray
from instil.serve.waiting import WaitingRoom


def job(*, priority: int = 0, **more: object) -> Job:
    return Job([1, 2], 4, priority=priority, **more)  # type: ignore[arg-type]


def test_lower_priorities_leave_first_and_equal_ones_in_the_order_they_came() -> None:
    room = WaitingRoom(8)
    late, first, second = job(priority=5), job(), job()
    room.put([late])
    room.put([first, second])
    assert room.take(2) == [first, second]
    assert room.take(2) == [late]


def test_a_batch_holds_only_jobs_that_are_searched_alike() -> None:
    room = WaitingRoom(8)
    greedy, drawn, other = job(), job(sampling=Sampling(1.0)), job()
    seeded = [job(sampling=Sampling(1.0, seed=7)) for _ in range(2)]
    room.put([greedy, drawn, other, *seeded])
    assert [room.take(4) for _ in range(4)] == [[greedy, other], [drawn], [seeded[0]], [seeded[1]]]


def test_a_full_room_takes_all_of_a_request_or_nothing_and_says_when_to_come_again() -> None:
    room = WaitingRoom(3)
    room.put([job(), job()])
    with pytest.raises(ServeError) as refused:
        room.put([job(), job()])
    assert (refused.value.status, refused.value.retry_after) == (429, 1)
    assert len(room) == 2
    with pytest.raises(ServeError, match="only 3 may wait"):
        room.put([job() for _ in range(4)])


def test_a_job_past_its_deadline_is_told_so_and_makes_room() -> None:
    room = WaitingRoom(1)
    late = job(deadline=time.monotonic() - 1)
    room.put([late])
    fresh = job()
    room.put([fresh])
    assert room.take(4) == [fresh]
    assert late.future.exception().status == 504  # type: ignore[union-attr]
    assert room.expired == 1


def test_the_pace_is_that_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    room, now = WaitingRoom(8), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for left in (1000, 1002, 1004):
        now[0] = left
        room.put([job()])
        room.take(1)
    assert room.seconds_for(10) == 14  # Three left in four seconds.
    now[0] += 3600
    assert room.seconds_for(10) == 60  # The last one is at work still.
    room.put([job()])
    room.take(1)
    assert room.seconds_for(10) == 1


def test_jobs_that_come_together_share_a_batch() -> None:
    room = WaitingRoom(8, gather_s=0.2)
    jobs = [job() for _ in range(3)]

    def come() -> None:
        for each in jobs:
            room.put([each])
            time.sleep(0.02)

    thread = threading.Thread(target=come)
    thread.start()
    assert room.take(3) == jobs
    thread.join()


@pytest.mark.parametrize("others", [0, 2])
def test_those_who_come_back_are_awaited(others: int) -> None:
    """Or groups of clients would take turns for ever, each with a part of a batch."""
    room = WaitingRoom(8, gather_s=0.01)
    first, back, waiting = [job(), job()], [job(), job()], [job() for _ in range(others)]
    room.put(first)
    assert room.take(8) == first
    room._dealt_at -= 20  # So long the engine worked, and others came meanwhile.
    if waiting:
        room.put(waiting)
    timers = [threading.Timer(0.1 + 0.1 * number, room.put, [[each]]) for number, each in enumerate(back)]
    for timer in timers:
        timer.start()
    begun = time.monotonic()
    assert room.take(8) == [*waiting, *back]
    assert time.monotonic() - begun < 1.5, "all are there, so nobody is waited for"


def test_who_does_not_come_back_is_not_waited_for_long() -> None:
    room = WaitingRoom(8, gather_s=0.01)
    room.put([job()])
    room.take(8)
    room._dealt_at -= 5
    room.put([stays := job()])
    begun = time.monotonic()
    assert room.take(8) == [stays]
    assert 0.45 < time.monotonic() - begun < 2


def test_a_closed_room_lets_nobody_in_and_everybody_out() -> None:
    room = WaitingRoom(2)
    inside = job()
    room.put([inside])
    room.close()
    with pytest.raises(ServeError) as refused:
        room.put([job()])
    assert refused.value.status == 503
    assert room.take(4) == [inside]
    assert room.take(4) == []


def test_the_cache_forgets_what_was_not_asked_for_longest() -> None:
    cache = AnswerCache(2800)  # Room for three.
    answers = {name: Answer(name * 100, "stop", 1, 1) for name in "abcde"}
    for name in "abc":
        cache.put(((1,), name), answers[name])
    assert cache.get(((1,), "a")) is not None
    for name in "de":
        cache.put(((1,), name), answers[name])
    assert cache.get(((1,), "b")) is None
    found = cache.get(((1,), "a"))
    assert found is not None and found.cached and found.text == "a" * 100
    assert cache.bytes <= 2800
    cache.put("huge", Answer("x" * 5000, "stop", 1, 1))
    assert cache.get("huge") is None


def test_all_of_a_key_counts_for_the_size_of_the_cache() -> None:
    cache = AnswerCache(100_000)
    for number in range(100):
        key = key_of(job(stops=tuple(f"{number} {stop} " * 40 for stop in range(16))))
        assert key is not None
        cache.put(key, Answer("x", "stop", 2, 1))
    kept = cache._kept
    assert sum(len(stop) for _, _, stops in kept for stop in stops) <= cache.bytes <= 100_000  # type: ignore[misc]
    assert 0 < len(kept) < 25


def test_sampled_and_scored_answers_are_not_kept() -> None:
    assert key_of(job()) == ((1, 2), 4, ())
    assert key_of(job(sampling=Sampling(0.5, seed=1))) is None
    assert key_of(job(scores=1)) is None


def test_a_stop_ends_the_text_before_it_and_no_part_of_it_is_streamed() -> None:
    heard: list[str] = []
    one = job(stops=("END",), listener=heard.append)
    assert [one.take(piece) for piece in ("ab", "E", "N")] == [False] * 3
    assert "".join(heard) == "ab"[: len("".join(heard))]
    assert one.take("D!")
    one.finish()
    answer = one.future.result()
    assert (answer.text, answer.ended, "".join(heard)) == ("ab", "stop", "ab")


def test_a_job_that_begins_anew_tells_nothing_twice_and_a_drawn_one_fails() -> None:
    heard: list[str] = []
    one = job(listener=heard.append)
    one.take("ab")
    one.again()
    for piece in ("a", "b", "c"):
        one.take(piece)
    one.finish()
    assert ("".join(heard), one.future.result().text, one.new_tokens) == ("abc", "abc", 3)
    drawn = job(listener=heard.append, sampling=Sampling(1.0))
    drawn.take("ab")
    with pytest.raises(ServeError, match="within a text that was drawn"):
        drawn.again()


def test_a_limit_ends_the_text() -> None:
    one = job()
    assert [one.take("x") for _ in range(4)] == [False, False, False, True]
    one.finish()
    assert one.future.result().ended == "length"


def test_keys_are_kept_as_hashes_and_known_again(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = add_key(path, "ada")
    other = add_key(path, "bob")
    assert key not in path.read_text() and path.stat().st_mode & 0o077 == 0
    known = read_keys(path)
    assert (name_of(key, known), name_of(other, known), name_of(key + "x", known)) == ("ada", "bob", None)
    with pytest.raises(ConfigError, match="has a key 'ada' already"):
        add_key(path, "ada")


@pytest.mark.parametrize("text", ["", "ada\n", "ada 1234\n"])
def test_a_bad_file_of_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigError, match="keys"):
        read_keys(path)


def test_the_engine_is_chosen_by_what_lies_there(tmp_path: Path) -> None:
    exported = tmp_path / "ct2"
    exported.mkdir()
    (exported / "model.bin").touch()
    (exported / "config.json").touch()
    auto = EngineOptions()
    assert choose("some/model.gguf", auto, "cpu").engine == "llama.cpp"
    assert choose(str(exported), auto, "cpu").engine == "ctranslate2"
    plain = choose("google-t5/t5-small", auto, "cpu")
    assert plain.engine == "transformers" and "device is cpu" in plain.why
    with pytest.raises(ModelError, match="export it first: instil export MODEL --to gguf"):
        choose(str(exported), EngineOptions(engine="llama.cpp"), "cpu")


def test_vllm_is_chosen_for_decoders_without_an_adapter_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    decoder, encoder = (serving.write_model(tmp_path / name, name) for name in ("qwen3", "t5"))
    auto, asked = EngineOptions(), EngineOptions(engine="vllm")
    assert choose(str(decoder), auto, "cuda").engine == choose(str(decoder), asked, "cuda").engine == "vllm"
    adapted = choose(str(decoder), auto, "cuda", adapter=tmp_path)
    assert adapted.engine == "transformers" and "vllm cannot add an adapter" in adapted.why
    other = choose(str(encoder), auto, "cuda:0")
    assert other.engine == "transformers" and "vllm runs decoder-only models only" in other.why
    assert "vllm takes folders and hub ids only" in choose("wheel:gemma3-270m", auto, "cuda").why
    with pytest.raises(ModelError, match="vllm runs decoder-only models only; leave --engine out"):
        choose(str(encoder), asked, "cuda")


def test_models_are_named_by_their_folder_or_by_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen2.5-0.5B"
    folder.mkdir()
    assert [(spec.name, spec.ref) for spec in specs_of([str(folder), f"mine={tmp_path}/a=b", "org/x=y"])] == [
        ("Qwen2.5-0.5B", str(folder)), ("mine", f"{tmp_path}/a=b"), ("org/x=y", "org/x=y"),
    ]  # fmt: skip


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two models are called 'a'"):
        ServeConfig(models=(ModelSpec(name="a", ref="x"), ModelSpec(name="a", ref="y")))


def test_ray_is_asked_for_where_it_is_missing() -> None:
    from importlib.util import find_spec

    if find_spec("ray"):
        pytest.skip("ray is installed here")
    config = ServeConfig(models=(ModelSpec(name="a", ref="x"),))
    with pytest.raises(ConfigError, match="pip install 'instil\\[ray\\]'"):
        serve_on_ray(config, most_replicas=2)
    options = deployment_options(config, most_replicas=2, gpus=0)
    assert options["autoscaling_config"]["max_replicas"] == 2
    assert options["max_queued_requests"] == config.limits.queue


@pytest.mark.parametrize(
    ("device", "gpus", "wanted"), [("auto", 4.0, 1), ("auto", 0, 0), ("cpu", 4.0, 0), ("cuda", 0, 1)]
)
def test_a_replica_asks_for_a_gpu_where_the_cluster_has_one(device: str, gpus: float, wanted: int) -> None:
    config = ServeConfig(models=(ModelSpec(name="a", ref="x"),), options=EngineOptions(device=device))
    asked = deployment_options(config, most_replicas=2, gpus=gpus)["ray_actor_options"]
    assert asked == {"num_cpus": 1, "num_gpus": wanted}


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is what torch and llama.cpp use on Linux")
@pytest.mark.parametrize("command", ["serve", "ui"])
def test_threads_that_wait_stay_awake(command: str) -> None:
    # The command fails for want of the model; OpenMP, loaded with torch, tells what it was set to.
    asked = f"from instil.run.cli import main\ntry: main(['{command}', 'none'])\nexcept SystemExit: pass\nimport torch"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    found = subprocess.run(
        [sys.executable, "-c", asked], env=env | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True,
        check=True,
    ).stderr  # fmt: skip
    assert "GOMP_SPINCOUNT = '300000'" in found
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in found


def test_what_the_user_says_of_waiting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    stay_awake()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert "GOMP_SPINCOUNT" not in os.environ
