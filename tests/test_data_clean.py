"""Cleaning drops what it should, never the only copy, and never lets held-out text into training."""

from __future__ import annotations

import json
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instil.data.account import Account
from instil.data.clean import Gate, source_key
from instil.data.config import CleanConfig, DataConfig, SplitLimits
from instil.data.duplicates import near_duplicates
from instil.data.leakage import HeldOut
from instil.data.load import cut, load_splits
from instil.data.order import one_sided
from instil.data.records import Record, Splits, data_fingerprint

WORDS = st.sampled_from("a b c d".split())
TEXT = st.lists(WORDS, min_size=1, max_size=24).map(" ".join)
TEXTS = st.lists(TEXT, max_size=30)


def jaccard(left: str, right: str) -> float:
    """Of word 5-grams; the slow, obvious way."""

    def grams(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.lower())
        short = {tuple(words)} if words else set()
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)} or short

    a, b = grams(left), grams(right)
    return len(a & b) / len(a | b) if a | b else 0.0


def run(tmp_path: Path, train: list[str], test: list[str] | None = None, **keys: object) -> tuple[Splits, Account]:
    """Load `train` and `test` sources, each with a target, through files."""
    places: dict[str, object] = {"validation_share": 0.0, "test_share": 0.0}
    for name, sources in (("train", train), ("test", test)):
        if sources is not None:
            rows = [json.dumps({"source": source, "target": "t"}) for source in sources]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
            places[name] = f"{name}.jsonl"
    return load_splits(DataConfig.model_validate(places | keys), base=tmp_path)


@given(TEXTS, st.sampled_from([0.3, 0.5, 0.8, 0.9, 1.0]))
@settings(deadline=None, max_examples=150)
def test_near_duplicates_are_those_of_the_brute_force(texts: list[str], threshold: float) -> None:
    kept: list[int] = []
    for index, text in enumerate(texts):
        if not any(jaccard(text, texts[other]) >= threshold - 1e-12 for other in kept):
            kept.append(index)
    assert set(range(len(texts))) - near_duplicates(texts, threshold) == set(kept)


@given(TEXTS, TEXTS)
@settings(deadline=None, max_examples=100)
def test_later_texts_change_no_earlier_verdict(texts: list[str], more: list[str]) -> None:
    before = near_duplicates(texts, 0.7)
    assert {index for index in near_duplicates(texts + more, 0.7) if index < len(texts)} == before


@given(TEXTS)
@settings(deadline=None, max_examples=100)
def test_exact_duplicates_leave_one_copy(texts: list[str]) -> None:
    gate = Gate(CleanConfig())
    for text in texts:
        gate.offer(Record("", text, ("t",)), source_key(text), "here")
    kept = [record.source for record in gate.records]
    assert sorted(kept) == sorted(set(texts))
    assert gate.read == len(texts) == len(kept) + gate.dropped.total()


@given(st.lists(TEXT, min_size=1), st.lists(TEXT, min_size=1), st.integers(2, 9), st.floats(0, 0.99))
@settings(deadline=None, max_examples=150)
def test_leak_removal_is_complete_and_no_more(train: list[str], held: list[str], n: int, most: float) -> None:
    found = HeldOut(held, n)
    windows = {tuple(w[i : i + n]) for text in held for w in [text.split()] for i in range(len(w) - n + 1)}
    for text, exact, share in zip(train, found.exact(train), found.share(train), strict=True):
        words = text.split()
        own = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        expected = sum(gram in windows for gram in own) / len(own) if own else 0.0
        assert share == pytest.approx(expected)
        assert (exact or share > most) == (text in held or expected > most)


@given(st.lists(TEXT, unique=True), st.lists(TEXT, unique=True))
@settings(deadline=None)
def test_splits_by_hash_are_stable(texts: list[str], more: list[str]) -> None:
    shares = {"validation": 0.2, "test": 0.3}
    before = [cut(source_key(text), shares) for text in texts]
    assert [cut(source_key(text), shares) for text in texts + more][: len(texts)] == before
    assert [cut(source_key(f"  {text}\n"), shares) for text in texts] == before


def test_appended_records_move_nothing(tmp_path: Path) -> None:
    sources = [f"the text of number {n * 7919} in words" for n in range(400)]
    keys = {"validation_share": 0.1, "test_share": 0.2}
    before, _ = run(tmp_path, sources[:300], **keys)
    after, _ = run(tmp_path, sources, **keys)
    assert all(after[name][: len(before[name])] == before[name] for name in before)
    assert 40 <= len(before["test"]) <= 80 and 15 <= len(before["validation"]) <= 50
    assert data_fingerprint(before) != data_fingerprint(after)
    assert data_fingerprint(before) == data_fingerprint(run(tmp_path, sources[:300], **keys)[0])


def words(start: int, count: int) -> str:
    return " ".join(f"w{n}" for n in range(start, start + count))


def test_the_account_adds_up(tmp_path: Path) -> None:
    train = [
        words(0, 40), words(0, 40) + "  ", words(0, 40) + " x", "", "one", words(0, 300),
        words(5000, 30), words(5000, 20) + " " + words(9000, 5), words(9100, 40), words(9200, 40), words(9300, 40),
    ]  # fmt: skip
    clean = {"min_source_words": 2, "max_source_words": 100}
    limit = SplitLimits(train=2)
    splits, account = run(tmp_path, train, [words(5000, 30)], clean=clean, limit=limit)
    found = account.splits["train"]
    assert dict(found.dropped) == {
        "exact duplicate": 1, "near duplicate": 1, "empty source": 1, "too short": 1, "too long": 1,
        "leaked exact": 1, "leaked n-gram": 1, "over limit": 2,
    }  # fmt: skip
    assert (found.read, found.kept) == (11, 2) and found.read == found.kept + sum(found.dropped.values())
    assert [record.source for record in splits["train"]] == [train[0], train[8]]
    assert account.lines()[0].startswith("train       2 kept of 11 read; dropped: 1 empty source, 1 too short")
    assert account.as_dict()["splits"]["test"]["kept"] == 1


def test_leaks_can_stay_with_a_warning(tmp_path: Path) -> None:
    train, test = [words(0, 40), words(100, 40)], [words(0, 40)]
    for mode, kept, leaks in (("remove", 1, 0), ("warn", 2, 1), ("off", 2, 0)):
        _, account = run(tmp_path, train, test, clean={"leakage": mode})
        assert (account.splits["train"].kept, account.splits["train"].leaks_kept) == (kept, leaks)
        assert any("leakage is 'warn'" in note for note in account.notes) == (mode == "warn")


@pytest.mark.parametrize("kept", [True, False])
def test_splits_of_few_sources_say_how_many_there_are(tmp_path: Path, kept: bool) -> None:
    clean = {"exact_duplicates": not kept, "near_duplicates": None}
    _, account = run(tmp_path, ["a b"] * 60, clean=clean, test_share=0.0001)
    told = "test is empty: 60 records with one and the same source are too few (a split is drawn by the source);"
    assert account.notes[-1] == f"{told} raise data.test_share, or name records with data.test"
    told = "no records are left of 60 records with 2 different sources; a split is drawn by the source; lower"
    with pytest.raises(ValueError, match=told):
        run(tmp_path, ["a b", "c d"] * 30, clean=clean, test_share=0.9999)
    _, account = run(tmp_path, ["a b", "c d"], test_share=0.0001)
    assert account.notes[-1] == "test is empty: 2 records are too few; raise data.test_share"


def test_nothing_left_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no records are left: 0 kept of 2 read; dropped: 2 too short; loosen"):
        run(tmp_path, ["a", "b"], clean={"min_source_words": 5})
    with pytest.raises(ValueError, match=r"leaked exact; give other held-out"):
        run(tmp_path, ["a b"], ["a b"])
    _, account = run(tmp_path, ["a b"], test_share=0.0001)
    assert account.notes[-1].startswith("test is empty")


@pytest.mark.parametrize("order", ["given", "mixed"])
def test_a_limit_is_the_beginning_of_the_whole(order: str, tmp_path: Path) -> None:
    sources = [words(n // 3 * 50, 30) + f" x{n}" for n in range(900)]  # two of three are near duplicates
    whole, _ = run(tmp_path, sources, order=order)
    some, account = run(tmp_path, sources, order=order, limit={"train": 100})
    assert some["train"] == whole["train"][:100]
    found = account.splits["train"]
    assert found.read == found.kept + sum(found.dropped.values())


def test_a_limit_of_sorted_records_takes_one_kind_and_says_so(tmp_path: Path) -> None:
    sources = [f"{kind}: number {n}" for kind in ("hotel", "laptop") for n in range(300)]
    given, account = run(tmp_path, sources, limit={"train": 200})
    assert {record.source.split(":")[0] for record in given["train"]} == {"hotel"}
    (note,) = account.notes
    assert note.startswith("the 200 train records within the limit are unlike the others: 'hotel:' is in 100% of them")
    assert note.endswith("set data.order: mixed")
    assert Account.of_dict(account.as_dict()).as_dict() == account.as_dict()
    mixed, account = run(tmp_path, sources, order="mixed", limit={"train": 200})
    kinds = [record.source.split(":")[0] for record in mixed["train"]]
    assert 70 < kinds.count("hotel") < 130 and not account.notes


def test_records_that_are_added_leave_the_mixed_order_of_the_others(tmp_path: Path) -> None:
    sources = [f"number {n}" for n in range(300)]
    few, _ = run(tmp_path, sources[:200], order="mixed")
    more, _ = run(tmp_path, sources, order="mixed")
    old = {record.source for record in few["train"]}
    assert [record for record in more["train"] if record.source in old] == few["train"]
    assert [int(record.source.split()[1]) for record in few["train"]] != list(range(200))


def test_words_that_differ_by_chance_are_no_kind() -> None:
    rng = random.Random(0)
    records = [Record(id=str(n), source=" ".join(rng.choices("abcdefgh", k=4)), targets=("t",)) for n in range(400)]
    assert one_sided(records[:60], records[60:]) == ""
    assert one_sided(records[:20], [replace(record, source="z") for record in records]) == ""  # too few to say


def test_files_that_count_alike_get_ids_apart(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(f"id,source,target\n0,{name} source,t\n")
    config = DataConfig(train="train.csv", test="test.csv", validation_share=0)
    splits, _ = load_splits(config, base=tmp_path)
    assert [record.id for records in splits.values() for record in records] == ["0", "test/0"]


def test_repeated_records_stay_when_asked(tmp_path: Path) -> None:
    splits, _ = run(tmp_path, ["a b"] * 3, clean={"exact_duplicates": False, "near_duplicates": None})
    ids = [record.id for record in splits["train"]]
    assert len(set(ids)) == 3 and ids[1:] == [f"{ids[0]}-2", f"{ids[0]}-3"]


def test_a_folder_brings_its_splits(tmp_path: Path) -> None:
    for name in ("train-00000.csv", "train-00001.csv", "dev.csv", "test/part.csv", "extra.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"source,target\nfrom {name},t\n")
    splits, account = load_splits(DataConfig(source=str(tmp_path)), base=Path())
    found = {name: [record.source for record in records] for name, records in splits.items()}
    assert found == {
        "train": ["from train-00000.csv", "from train-00001.csv"],
        "validation": ["from dev.csv"],
        "test": ["from test/part.csv"],
    }
    assert "extra.csv" in account.notes[0]


def test_unspaced_scripts_and_texts_without_words() -> None:
    chinese = "这是一个关于软件包的很长的描述它可以帮助人们写文章并且检查拼写错误还有许多别的功能可以使用"
    assert near_duplicates([chinese, chinese + "吗", "!!!", "???", "完全不同的一句话"], 0.9) == {1}


def test_one_template_for_all_texts_ends_in_time() -> None:
    texts = [f"{words(0, 60)} slot{n} {words(100, 5)}" for n in range(1500)]  # each pair is just below 0.9
    start = time.process_time()
    assert len(near_duplicates(texts, 0.9)) == 0
    assert time.process_time() - start < 15


def test_the_built_in_corpus_is_clean_and_fast_to_load() -> None:
    start = time.process_time()
    splits, account = load_splits(DataConfig(source="synopsis"), base=Path())
    assert time.process_time() - start < 12, "about 3 s on an idle core"
    assert all(split.read == split.kept >= 400 for split in account.splits.values())
    assert len(splits["train"]) > 10_000 and account.notes == ()
    quick = CleanConfig(near_duplicates=None, leakage="off")
    again = DataConfig(train="synopsis", test="synopsis", validation_share=0, clean=quick)
    assert load_splits(again, base=Path())[0]["test"] == splits["test"]
