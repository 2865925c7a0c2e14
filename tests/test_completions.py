"""Stored outputs of a teacher that is far away: read in every form, refused in one line, learned from as targets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from command import instil
from instil.core.errors import LabelError
from instil.data.records import Record
from instil.labels.completions import read_completions
from project import finished, project


def batch_line(record: str, *texts: str | None, status: int = 200, error: Any = None) -> dict[str, Any]:
    """A line as OpenAI's batch interface gives it."""
    body = {
        "choices": [{"index": n, "message": {"role": "assistant", "content": text}} for n, text in enumerate(texts)],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
    }
    return {"id": "b", "custom_id": record, "response": {"status_code": status, "body": body}, "error": error}


def write(path: Path, *rows: Any) -> Path:
    content = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_every_form_is_read(name: str, tmp_path: Path) -> None:
    plain = {"custom_id": "d", "response": {"status_code": 200, "body": {"choices": [{"text": " plain "}]}}}
    found = read_completions(
        write(
            tmp_path / name,
            {"id": "a", "target": "one"}, "", {"id": 7, "target": ["two", "three"]}, batch_line("b", "four", "five"),
            batch_line("c", "lost", status=429), batch_line("c", "lost", error={"code": "x"}),
            batch_line("e", None), plain,
        )
    )  # fmt: skip
    assert found.targets == {"a": ["one"], "7": ["two", "three"], "b": ["four", "five"], "d": ["plain"]}
    assert (found.failed, found.prompt_tokens, found.completion_tokens) == (2, 20, 6)
    unusual = "one\u2028two\x85three"
    line = json.dumps({"id": "a", "target": unusual}, ensure_ascii=False)
    assert read_completions(write(tmp_path / f"other {name}", line)).targets == {"a": [unusual]}
    assert "6 completions of 4 records" in str(found) and "2 requests failed" in str(found)


def chat(*texts: str | None, **more: Any) -> dict[str, Any]:
    """A line as data sets for fine-tuning have it: a system message, then user and assistant in turn."""
    roles = ("user", "assistant") * len(texts)
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"messages": [{"role": "system", "content": "Be brief."}, *turns], **more}


def test_chats_are_read_by_id_or_by_their_last_user_message(tmp_path: Path) -> None:
    rows = [
        chat("red cat", "cat"), chat("red cat", " a cat "), chat("hello", "hi", "red dog\n", "dog"),
        chat("whatever", "fish", id=7), chat("blue", None),
    ]  # fmt: skip
    found = read_completions(write(tmp_path / "out.jsonl", *rows))
    assert found.by_source == {"red cat": ["cat", "a cat"], "red dog": ["dog"]} and found.targets == {"7": ["fish"]}
    assert found.of(Record("x", " red cat", ("gold",))) == ["cat", "a cat"]
    assert found.of(Record("7", "red cat", ("gold",))) == ["fish"]
    assert found.of(Record("x", "cat", ("gold",))) == []
    assert "4 completions of 3 records" in str(found)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([chat("red", "cat", "why")], "line 1: its last message is of role 'user', not the assistant's"),
        ([{"messages": [{"role": "assistant", "content": "x"}]}], "neither an id nor a user message of plain text"),
        ([{"messages": []}], "line 1: .*or a chat: messages"),
        (['{"id": 1'], "line 1: .*JSON object with id and target"),
        ([{"id": "a", "target": "x"}, {"id": "b"}], "line 2: lacks 'target'"),
        ([{"custom_id": "a", "response": {"body": {}}}], "line 1: lacks 'choices'"),
        ([{"id": "a", "target": 5}], "completion that is no text"),
        (["[1, 2]"], "line 1: "),
        ([batch_line("a", "x", status=500)], "no completion in it"),
        ([""], "no completion in it"),
    ],
)
def test_what_is_none_of_the_forms_is_one_line(rows: list[Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=says) as caught:
        read_completions(write(tmp_path / "out.jsonl", *rows))
    assert "\n" not in str(caught.value)


def test_a_student_learns_from_completions_alone(tmp_path: Path) -> None:
    """With alpha 0 nothing is asked of the local teacher but its layers; several choices are several examples."""
    folder = project(tmp_path / "project", pairs=60, teacher={"teach": None})
    rows = [batch_line(str(number), f"red {number}", "blue") for number in range(50)]
    write(folder / "batch.jsonl", *rows, batch_line("unknown", "x"))
    changes = ("--set", "labels.completions=batch.jsonl", "--set", "distil.alpha=0")
    ended = instil("distil", "recipe.yaml", *changes, cwd=folder)
    assert ended.code == 0, ended.err
    assert "101 completions of 51 records" in ended.err and "have no completion" in ended.err
    made = finished(folder, "label")
    assert not (made / "store").exists()
    targets = [json.loads(line) for line in (made / "targets.jsonl").read_text().splitlines()]
    assert {"id": "3", "target": "red 3"} in targets or {"id": "4", "target": "red 4"} in targets
    assert instil("distil", "recipe.yaml", *changes, cwd=folder).err.count("reused") >= 3
    # Another file is another teacher.
    write(folder / "batch.jsonl", *rows[:20])
    again = instil("label", "recipe.yaml", *changes, cwd=folder)
    assert again.code == 0 and "label: done" in again.err


def test_completions_are_labelled_where_labels_have_a_weight(tmp_path: Path) -> None:
    folder = project(tmp_path / "project", pairs=60, teacher={"teach": None})
    write(folder / "batch.jsonl", *(batch_line(str(number), "red", "blue cat") for number in range(60)))
    ended = instil("distil", "recipe.yaml", "--set", "labels.completions=batch.jsonl", cwd=folder)
    assert ended.code == 0, ended.err
    manifest = json.loads((finished(folder, "label") / "store" / "manifest.json").read_text())
    records = len((finished(folder, "label") / "targets.jsonl").read_text().splitlines())
    assert manifest["shards"][0]["examples"] == records > 60


def test_a_student_learns_from_chats_without_ids(tmp_path: Path) -> None:
    folder = project(tmp_path / "project", pairs=40, teacher={"teach": None})
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    write(folder / "chats.jsonl", *(chat(pair["source"], f"red {pair['id']}") for pair in pairs))
    changes = ("--set", "labels.completions=chats.jsonl", "--set", "distil.alpha=0")
    ended = instil("label", "recipe.yaml", *changes, cwd=folder)
    assert ended.code == 0, ended.err
    targets = [json.loads(line) for line in (finished(folder, "label") / "targets.jsonl").read_text().splitlines()]
    assert targets and all(row["target"] == f"red {row['id']}" for row in targets)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([batch_line("nobody", "x")], "none of its ids is a training record's"),
        ([chat("nobody's", "x")], "no last user message is a training record's source (here \"nobody's\", there '"),
        (None, "no such file"),
    ],
)
def test_completions_of_other_records_or_none(rows: list[Any] | None, says: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", pairs=40, teacher={"teach": None})
    if rows is not None:
        write(folder / "batch.jsonl", *rows)
    ended = instil("label", "recipe.yaml", "--set", "labels.completions=batch.jsonl", cwd=folder)
    assert ended.code == 1 or ended.code == 2
    assert says in ended.said
