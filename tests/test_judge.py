"""A model as judge: a real server's answers, and what is made of judges of known character."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
import tiny_server
from command import instil
from instil.core.errors import ModelError
from instil.evaluate.judge import judge_pairs
from instil.evaluate.judgement import Judgements, Pair
from instil.models.config import ServedConfig
from instil.models.served import Endpoint
from test_served import answering

PAIRS = {
    number: Pair(
        record=str(number), source=f"s{number} {{left}}", reference="r", first="student", second="teacher",
        first_output=f"short {number}", second_output=f"a much longer text {number}",
    )
    for number in range(1, 7)
}  # fmt: skip


def judging(verdict: Callable[[str, str], str], prompts: list[str]) -> Callable[[str, dict[str, Any]], Any]:
    """A server whose model says `verdict(answer A, answer B)`."""

    def answer(path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/models"):
            return 200, {"data": [{"id": "m"}]}, {}
        text = body["messages"][0]["content"]
        prompts.append(text)
        left, right = re.findall(r"Answer [AB]:\n(.*)", text)
        return 200, {"choices": [{"message": {"content": verdict(left, right)}}]}, {}

    return answer


@pytest.mark.parametrize(
    ("verdict", "wins", "ties", "losses", "agreement", "left", "unreadable"),
    [
        (lambda a, b: '{"better": "A"}' if len(a) < len(b) else '{"better": "B"}', 12, 0, 0, 1.0, 0.5, 0),
        (lambda a, b: "A", 6, 0, 6, 0.0, 1.0, 0),
        (lambda a, b: "Either would do, so: tie", 0, 12, 0, 1.0, None, 0),
        (lambda a, b: "A is fine, but in the end B", 6, 0, 6, 0.0, 0.0, 0),
        (lambda a, b: "I cannot say.", 0, 0, 0, None, None, 12),
    ],
)
def test_judges_of_known_character(
    verdict: Any, wins: int, ties: int, losses: int, agreement: float | None, left: float | None, unreadable: int
) -> None:
    prompts: list[str] = []
    with answering(judging(verdict, prompts)) as url:
        found = judge_pairs(Endpoint(ServedConfig(url=url, concurrency=2)), PAIRS)
    assert len(prompts) == 12
    assert all("{left}" in prompt for prompt in prompts), "a source's own braces stay"
    assert found.unreadable == unreadable
    assert (found.agreement.value if found.agreement else None) == agreement
    if unreadable:
        assert found.preferences == ()
        return
    (one,) = found.preferences
    assert (one.wins, one.ties, one.losses) == (wins, ties, losses)
    assert (one.left.value if one.left else None) == left
    assert (one.first, one.second) == ("student", "teacher")


def test_a_real_server_is_held_to_the_form(tmp_path: Path) -> None:
    tokenizer = tiny.tiny_tokenizer("decoder-only")
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tiny_server.write_gguf(tiny.tiny_model("qwen3"), words, tmp_path / "tiny.gguf")
    with tiny_server.llama_cpp(tmp_path / "tiny.gguf") as url:
        endpoint = Endpoint(ServedConfig(url=url, concurrency=2))
        found = judge_pairs(endpoint, PAIRS, template="{left} {right}?", max_tokens=96)
        (one,) = found.preferences
        assert one.answers + found.unreadable == 12 and one.answers >= 8
        assert one.alpha is None or one.alpha <= 1
        assert found.signature.startswith("judge|orders:both|model:")


def test_the_command(tmp_path: Path) -> None:
    Judgements.create(tmp_path / "p.db", list(PAIRS.values()), question="Which is shorter?")
    prompts: list[str] = []
    with answering(judging(lambda a, b: "A" if len(a) < len(b) else "B", prompts)) as url:
        ended = instil("judge", "model", "p.db", "--url", url, "--no-structured", "--json", cwd=tmp_path)
        assert ended.code == 0, ended.err
        told = instil("judge", "model", "p.db", "--url", url, cwd=tmp_path).out
    found = json.loads(ended.out)
    assert (found["preferences"][0]["wins"], found["agreement"]["value"], found["unreadable"]) == (12, 1.0, 0)
    assert "same in both orders  100%" in told
    assert all(prompt.startswith("Which is shorter?") for prompt in prompts)


def test_a_server_that_is_not_there_is_one_line() -> None:
    endpoint = Endpoint(ServedConfig(url="http://127.0.0.1:9/v1", retries=0, model="m"), "the judge")
    with pytest.raises(ModelError, match="no answer at once"):
        judge_pairs(endpoint, PAIRS)
