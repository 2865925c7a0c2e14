"""Systems that are not ours: files of outputs and servers, beside the teacher in one comparison."""

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
import tiny_server
from command import instil
from instil.core.errors import DataError, ModelError
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.evaluate.baselines import Lead1
from instil.evaluate.compare import evaluate_systems
from instil.evaluate.given import read_given
from instil.models.config import ServedConfig
from instil.models.remote import RemoteGenerator
from instil.models.served import Endpoint
from project import project
from test_served import answering

RECORDS = [Record(str(i), f"source {i}", (f"target {i}",)) for i in range(3)]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")
    return path


def test_outputs_are_found_by_id_source_or_line(tmp_path: Path) -> None:
    rows = [
        {"id": "2", "output": "c\u2028c"}, {"source": "source 1", "prediction": "b"}, {"id": 0, "text": "a"},
        {"id": "more", "output": ""},
    ]  # fmt: skip
    found = read_given(written(tmp_path / "o.jsonl", rows), RECORDS, name="theirs")
    assert found.generate(["source 2", "source 0", "source 1"]) == ["c\u2028c", "a", "b"]
    (tmp_path / "o.txt").write_text("a\n\nc\n", encoding="utf8")
    assert read_given(tmp_path / "o.txt", RECORDS, name="theirs").generate(["source 1", "source 2"]) == ["", "c"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("o.jsonl", '{"id": "0", "output": "a"}\n', "lacks 2 of 3 records, the first is '1'"),
        ("o.jsonl", '{"id": "0", "output": "a"}\n[1]\n', r"o\.jsonl:2: is no JSON object"),
        ("o.jsonl", '{"id": "0", "answer": "a"}\n', r'o\.jsonl:1: needs an "output".*has id, answer'),
        ("o.txt", "a\nb\n", "2 lines for 3 records"),
        ("o.txt", "", "1 lines for 3 records"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf8")
    with pytest.raises(DataError, match=reason):
        read_given(tmp_path / name, RECORDS, name="theirs")
    with pytest.raises(DataError, match="no such file"):
        read_given(tmp_path / "none.jsonl", RECORDS, name="theirs")
    (tmp_path / "latin.txt").write_bytes(b"\xff\n\n\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_given(tmp_path / "latin.txt", RECORDS, name="theirs")


def test_a_file_is_scored_but_not_timed_and_is_no_baseline(tmp_path: Path) -> None:
    rows = [{"id": record.id, "output": record.targets[0]} for record in RECORDS]
    given = read_given(written(tmp_path / "o.jsonl", rows), RECORDS, name="theirs")
    found = evaluate_systems(
        {"theirs": given, "lead1": Lead1()}, RECORDS, max_new_tokens=4, latency_items=2, teacher="theirs"
    )
    theirs = found["theirs"]
    assert theirs.metrics["exact_match"].value == 100
    assert (theirs.latency, theirs.throughput, theirs.peak_memory_bytes) == (None, None, None)
    assert not theirs.is_baseline and found["lead1"].is_baseline
    assert found["lead1"].retention is not None and found["lead1"].speedup is None


def test_a_server_is_asked_with_texts(tmp_path: Path) -> None:
    tokenizer = tiny.tiny_tokenizer("decoder-only")
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tiny_server.write_gguf(tiny.tiny_model("qwen3"), words, tmp_path / "tiny.gguf")
    with tiny_server.llama_cpp(tmp_path / "tiny.gguf") as url:
        remote = RemoteGenerator(Endpoint(ServedConfig(url=url, concurrency=2)), Prompt(text="sum: "), name="remote")
        texts = remote.generate(["one", "two", "three"], max_new_tokens=8, batch_size=3)
        assert texts == remote.generate(["one", "two", "three"], max_new_tokens=8, batch_size=1)
        assert len(set(texts)) > 1
        chat = Prompt(kind="chat", text="Sum: {source}", system="Be brief.")
        assert RemoteGenerator(remote.endpoint, chat, name="remote").generate(["one"], max_new_tokens=8)


def test_a_chat_is_a_chat() -> None:
    asked: list[dict[str, Any]] = []

    def answer(path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/models"):
            return 200, {"data": [{"id": "m"}]}, {}
        asked.append(body)
        message = {"content": " yes "} if len(asked) == 1 else None
        return 200, {"choices": [{"message": message}]}, {}

    with answering(answer) as url:
        endpoint = Endpoint(ServedConfig(url=url, retries=0), "evaluate.systems.theirs.endpoint")
        remote = RemoteGenerator(endpoint, Prompt(kind="chat", text="Sum: {source}", system="Be brief."), name="r")
        assert remote.generate(["one"], max_new_tokens=7) == ["yes"]
        assert asked[0]["messages"] == [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sum: one"},
        ]  # fmt: skip
        assert (asked[0]["max_tokens"], asked[0]["temperature"]) == (7, 0.0)
        with pytest.raises(ModelError, match="has no message"):
            remote.generate(["one"], max_new_tokens=7)
    with pytest.raises(ModelError, match="no answer at once"):
        remote.generate(["one"], max_new_tokens=7)


def test_the_command_holds_a_file_beside_the_teacher(tmp_path: Path) -> None:
    folder = project(tmp_path, "llama", pairs=60, teacher={"teach": None}, labels={}, student=None, distil=None)
    path = folder / "pairs.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
    written(folder / "theirs.jsonl", [{"source": row["source"], "output": row["target"]} for row in rows])
    ended = instil("evaluate", "recipe.yaml", "--outputs", "theirs=theirs.jsonl", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["theirs"]["metrics"]["exact_match"]["value"] == 100
    assert found["theirs"]["elsewhere"] is True
    assert found["teacher"]["metrics"]["loss"]["n"] == 6
    assert "write NAME=theirs.jsonl" in instil("evaluate", "recipe.yaml", "--outputs", "theirs.jsonl", cwd=folder).err
    ended = instil("evaluate", "recipe.yaml", "--outputs", "lead1=theirs.jsonl", cwd=folder)
    assert "lead1 is the name of a system that is there already" in ended.said


@pytest.mark.parametrize("options", [(), ("--probe",)])
def test_what_a_file_lacks_is_told_before_the_teacher_is_taught(tmp_path: Path, options: tuple[str, ...]) -> None:
    folder = project(tmp_path, pairs=60)
    ended = instil("evaluate", "recipe.yaml", "--outputs", "theirs=none.jsonl", *options, cwd=folder)
    assert (ended.code, ended.said) == (1, "none.jsonl: there is no such file of outputs; check the path")
    assert not (folder / "runs").exists()
    written(folder / "few.jsonl", [{"id": "none", "output": "words"}])
    ended = instil("evaluate", "recipe.yaml", "--outputs", "theirs=few.jsonl", *options, cwd=folder)
    assert ended.said.startswith("few.jsonl: lacks 6 of 6 records")
    assert [path.name.partition("-")[0] for path in folder.glob("runs/*/*")] == ["data"]
