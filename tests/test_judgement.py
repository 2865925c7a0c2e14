"""Blind pairs: who sees what, what is kept, and what the answers come to."""

import csv
import json
import random
import sqlite3
import threading
from pathlib import Path

import pytest

from command import instil
from instil.core.errors import ConfigError, DataError
from instil.evaluate.agreement import alpha, preferences
from instil.evaluate.judgement import Answer, Choice, Judgements, Pair, pairs_of
from instil.evaluate.outputs import ScoredOutput, save_outputs

SYSTEMS = ("student", "teacher")


def outputs(name: str, count: int = 12) -> list[ScoredOutput]:
    """Both systems write the same for every fourth record."""
    return [
        ScoredOutput(str(i), f"source {i}", ("target",), "same" if i % 4 == 0 else f"{name} {i}", 0, 0, 0, 0, 0)
        for i in range(count)
    ]


def made(folder: Path, *, common: int = 3, seed: int = 0) -> Judgements:
    columns = {name: outputs(name) for name in SYSTEMS}
    pairs, identical = pairs_of(columns, *SYSTEMS, seed=seed)
    return Judgements.create(folder / "pairs.db", pairs, common=common, seed=seed, identical=identical)


def prefer(kept: Judgements, judge: str, system: str) -> None:
    """`judge` looks at every pair and always takes what `system` wrote."""
    while shown := kept.following(judge):
        kept.answer(judge, shown.pair, "left" if shown.left.startswith(system) else "right", seconds=2.0)


def test_pairs_are_drawn_without_those_that_are_the_same() -> None:
    columns = {name: outputs(name) for name in SYSTEMS}
    pairs, identical = pairs_of(columns, *SYSTEMS)
    assert (len(pairs), identical) == (9, 3)
    assert all(pair.first_output != pair.second_output for pair in pairs)
    assert len(pairs_of(columns, *SYSTEMS, count=4, seed=1)[0]) == 4
    assert pairs_of(columns, *SYSTEMS, seed=1) == pairs_of(columns, *SYSTEMS, seed=1)
    with pytest.raises(DataError, match="different records"):
        pairs_of({"a": outputs("a"), "b": outputs("b")[1:]}, "a", "b")


def test_order_and_sides_are_each_judges_own_and_stay(tmp_path: Path) -> None:
    kept = made(tmp_path)
    orders = {judge: kept.order(judge) for judge in ("ann", "bob", "cem")}
    assert all(sorted(order) == list(range(1, 10)) for order in orders.values())
    assert all(set(order[:3]) == {1, 2, 3} for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 3
    sides = {judge: [kept.show(judge, n).left.split()[0] for n in range(1, 10)] for judge in orders}
    assert len({tuple(side) for side in sides.values()}) == 3
    assert {side for each in sides.values() for side in each} == set(SYSTEMS)
    assert Judgements(kept.path).order("ann") == orders["ann"]
    shown = kept.following(" ann ")
    assert shown is not None and shown.pair == orders["ann"][0]


def test_answers_name_the_winner_whatever_the_side(tmp_path: Path) -> None:
    kept = made(tmp_path)
    prefer(kept, "ann", "student")
    prefer(kept, "bob", "student")
    assert kept.progress("ann") == (9, 9)
    assert kept.progress("cem") == (0, 9)
    assert {answer.winner for answer in kept.answers()} == {"student"}
    assert {answer.choice for answer in kept.answers()} == {"left", "right"}
    (found,) = preferences(kept.answers())
    assert (found.first, found.second, found.pairs, found.answers, found.judges) == (*SYSTEMS, 9, 18, 2)
    assert (found.wins, found.ties, found.losses) == (18, 0, 0)
    assert found.win_rate.value == found.win_rate.low == 1
    assert found.p_value < 0.01
    assert found.alpha is None, "no disagreement was possible where only one answer occurs"
    assert found.median_seconds == 2.0


def test_an_answer_may_be_changed(tmp_path: Path) -> None:
    kept = made(tmp_path)
    kept.answer("ann", 2, "left", seconds=3.5, remark="hm")
    kept.answer("ann", 2, "tie")
    (answer,) = kept.answers()
    assert (answer.choice, answer.winner, answer.seconds, answer.remark) == ("tie", None, None, "")


def said(pair: int, judge: str, winner: str | None, choice: Choice = "left") -> Answer:
    return Answer(
        pair=pair, record=str(pair), first="a", second="b", judge=judge, choice="tie" if winner is None else choice,
        winner=winner, seconds=None, remark="", at="",
    )  # fmt: skip


def test_alpha_by_hand() -> None:
    """Krippendorff 2011, binary data: 4 of 10 units differ, 6 of 20 values are 1: 1 - 19 * 4 / (14 * 6)."""
    first, second = "0100000010", "1110010000"
    names = {"0": "a", "1": "b"}
    answers = [said(i, judge, names[v]) for judge, row in (("x", first), ("y", second)) for i, v in enumerate(row)]
    assert alpha(answers) == pytest.approx(1 - 19 * 4 / (14 * 6))
    assert alpha([answer for answer in answers if answer.judge == "x"]) is None


def test_guessing_judges_prefer_nobody_and_a_side_shows() -> None:
    dice = random.Random(0)
    answers = [said(pair, judge, dice.choice(["a", "b", None])) for pair in range(120) for judge in "xyz"]
    (found,) = preferences(answers)
    assert found.win_rate.low < 0.5 < found.win_rate.high
    assert found.p_value > 0.05
    assert found.alpha is not None and abs(found.alpha) < 0.1
    assert found.left is not None and found.left.value == 1


def test_judges_at_the_same_time_lose_no_answer(tmp_path: Path) -> None:
    kept = made(tmp_path)
    threads = [threading.Thread(target=prefer, args=(kept, f"judge {n}", "teacher")) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept.answers()) == 54


def test_mistakes_end_in_one_line(tmp_path: Path) -> None:
    kept = made(tmp_path)
    pair = Pair(record="1", source="", reference="", first="a", second="b", first_output="x", second_output="y")
    with pytest.raises(ConfigError, match="is there already"):
        Judgements.create(kept.path, [pair])
    with pytest.raises(DataError, match="nothing to judge"):
        Judgements.create(tmp_path / "none.db", [])
    with pytest.raises(DataError, match="no such file"):
        Judgements(tmp_path / "none.db").answers()
    with pytest.raises(ConfigError, match="no pair 99"):
        kept.answer("ann", 99, "left")
    with pytest.raises(ConfigError, match="choose one of left, right, tie"):
        kept.answer("ann", 1, "both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a name"):
        kept.following("  ")
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at as one" * 20, encoding="utf8")
    sqlite3.connect(tmp_path / "other.db").execute("create table x (y)").connection.close()
    for name in ("text.db", "other.db"):
        with pytest.raises(DataError, match=f"{name}: holds no judgements"):
            Judgements(tmp_path / name).order("ann")


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    for name in SYSTEMS:
        save_outputs(tmp_path / f"{name}.jsonl", outputs(name, 400))
    new = ("judge", "new", "p.db", "student.jsonl", "teacher.jsonl", "--count", "400")
    for most in (4000, 20_000):
        ended = instil(*new, cwd=tmp_path, most_bytes=most)
        assert ended.code == 1 and ended.said.startswith("p.db: ") and ".aside" not in ended.said, ended.err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["student.jsonl", "teacher.jsonl"]
    assert instil(*new, cwd=tmp_path).code == 0


def test_a_file_that_was_not_made_to_its_end_is_one_line(tmp_path: Path) -> None:
    kept = made(tmp_path)
    sqlite3.connect(kept.path, isolation_level=None).execute("delete from about").connection.close()
    ended = instil("judge", "show", "pairs.db", cwd=tmp_path)
    assert ended.code == 1 and "pairs.db: was not made to its end; remove it" in ended.said
    with pytest.raises(DataError, match="was not made to its end"):
        kept.order("ann")


@pytest.mark.parametrize("content", [b'{"source": "a", "target": "b"}\n', b"name: tldr\n", b"\xff\xfe"])
def test_nobody_is_told_to_delete_their_own_data(content: bytes, tmp_path: Path) -> None:
    save_outputs(tmp_path / "student.jsonl", outputs("student"))
    (tmp_path / "mine.jsonl").write_bytes(content)
    ended = instil("judge", "new", "p.db", "student.jsonl", "mine.jsonl", cwd=tmp_path)
    assert ended.code == 1 and "name one of outputs/ in an evaluation's folder" in ended.said
    assert "delete" not in ended.said


def test_the_commands(tmp_path: Path) -> None:
    for name in SYSTEMS:
        save_outputs(tmp_path / f"{name}.jsonl", outputs(name))
    ended = instil("judge", "new", "p.db", "student.jsonl", "teacher.jsonl", "--count", "6", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out) == {"file": "p.db", "pairs": 6, "identical": 3, "next": "instil judge show p.db"}
    assert "no answers yet" in instil("judge", "show", "p.db", cwd=tmp_path).out
    kept = Judgements(tmp_path / "p.db")
    prefer(kept, "ann", "student")
    kept.answer("bob", 1, "tie", remark='both, "really"')
    told = instil("judge", "show", "p.db", cwd=tmp_path).out
    assert "student against teacher: 7 answers to 6 pairs by 2 judges" in told
    assert "preferred  95.8%" in told
    (found,) = json.loads(instil("judge", "show", "p.db", "--json", cwd=tmp_path).out)["preferences"]
    assert found["wins"] == 6
    lines = instil("judge", "export", "p.db", cwd=tmp_path).out.splitlines()
    assert len(lines) == 7 and json.loads(lines[0])["winner"] in ("student", None)
    instil("judge", "export", "p.db", "--format", "csv", "--out", "answers.csv", cwd=tmp_path)
    rows = list(csv.DictReader((tmp_path / "answers.csv").open(encoding="utf8")))
    assert {row["remark"] for row in rows} == {"", 'both, "really"'}
    assert "is there already" in instil("judge", "new", "p.db", "student.jsonl", "teacher.jsonl", cwd=tmp_path).said
    assert "no such file" in instil("judge", "new", "q.db", "student.jsonl", "x.jsonl", cwd=tmp_path).said
