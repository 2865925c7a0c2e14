"""The built-in corpus as shipped, and the tool that builds it, on a small index made by hand."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from instil.core.errors import ConfigError, DataError
from instil.data.records import Record
from instil.data.synopsis import FOLDER, SPLITS, load

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import build_synopsis as tool  # noqa: E402
import synopsis_rules as rules  # noqa: E402
import synopsis_text as text  # noqa: E402

MIB = 1 << 20
PROSE = (
    "reads measurements from many stations and keeps them in one place so that a person can look at the weather of "
    "the last years and compare towns with each other It draws maps tables and curves and answers questions about rain"
)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Record]]:
    return {name: load(name) for name in SPLITS}


def grams(source: str, size: int) -> set[tuple[str, ...]]:
    found = text.words(source)
    return {tuple(found[at : at + size]) for at in range(len(found) - size + 1)}


def stanza(package: str, synopsis: str, *lines: str) -> str:
    body = "".join(f" {line}\n" for line in lines)
    return f"Package: {package}\nDescription-md5: 0\nDescription-en: {synopsis}\n{body}"


def prose(name: str) -> tuple[str, ...]:
    """A description of 41 words of which no two neighbours are shared between names."""
    return (f"{name.capitalize()} " + " ".join(f"{word}{name}" for word in PROSE.split()[:40]) + ".",)


def index(*entries: str) -> str:
    return "\n".join(entries)


def selected(content: str, sources: dict[str, str] | None = None) -> list[tool.Pair]:
    return tool.select(text.stanzas(content), tool.Log(), sources)


def test_sizes(splits: dict[str, list[Record]]) -> None:
    assert len(splits["test"]) == 900
    assert len(splits["validation"]) == 400
    assert len(splits["train"]) >= 12_800
    assert sum((FOLDER / f"{name}.jsonl.gz").stat().st_size for name in SPLITS) <= 4 * MIB


def test_ids_and_texts_are_unique_over_all_splits(splits: dict[str, list[Record]]) -> None:
    records = [record for split in splits.values() for record in split]
    for key in (
        lambda record: record.id,
        lambda record: " ".join(text.words(record.source)),
        lambda record: " ".join(text.words(text.first_sentence(record.source))),
        lambda record: " ".join(text.words(record.targets[0])),
    ):
        assert len({key(record) for record in records}) == len(records)


def test_word_limits(splits: dict[str, list[Record]]) -> None:
    for record in (record for split in splits.values() for record in split):
        assert 40 <= len(record.source.split()) <= 300, record.id
        assert len(record.targets) == 1
        assert 3 <= len(record.targets[0].split()) <= 20, record.id


def test_text_is_clean(splits: dict[str, list[Record]]) -> None:
    for record in (record for split in splits.values() for record in split):
        assert "\n" not in record.targets[0]
        assert "\n\n\n" not in record.source
        assert "\n.\n" not in record.source
        for passage in (record.source, record.targets[0]):
            assert passage == passage.strip()
            assert all(character == "\n" or character.isprintable() for character in passage), record.id


@pytest.mark.parametrize(("one", "other"), [("train", "test"), ("train", "validation"), ("validation", "test")])
def test_no_leak_between_splits(splits: dict[str, list[Record]], one: str, other: str) -> None:
    held = [grams(record.source, 8) for record in splits[other]]
    where = defaultdict(set)
    for at, found in enumerate(held):
        for gram in found:
            where[gram].add(at)
    for record in splits[one]:
        mine, shared = grams(record.source, 8), defaultdict(int)
        for gram in mine:
            for at in where.get(gram, ()):
                shared[at] += 1
        for at, count in shared.items():
            assert count <= 0.5 * min(len(mine), len(held[at])), (record.id, splits[other][at].id)


def test_split_goes_by_the_hash_of_the_first_sentence(splits: dict[str, list[Record]]) -> None:
    def digests(name: str) -> list[str]:
        openings = (" ".join(text.words(text.first_sentence(record.source))) for record in splits[name])
        return [hashlib.sha256(opening.encode()).hexdigest() for opening in openings]

    in_order = digests("test") + digests("validation") + digests("train")
    assert in_order == sorted(in_order)


def test_files_are_what_info_says() -> None:
    info = json.loads((FOLDER / "info.json").read_text())
    assert info["release"]["codename"] == "bookworm"
    for name in SPLITS:
        about, content = info["files"][f"{name}.jsonl.gz"], (FOLDER / f"{name}.jsonl.gz").read_bytes()
        assert about["sha256"] == hashlib.sha256(content).hexdigest()
        assert about["sha256_text"] == hashlib.sha256(gzip.decompress(content)).hexdigest()
        assert about["pairs"] == len(load(name))
        assert content[4:8] == b"\0\0\0\0", "the gzip header carries a time"


def test_unknown_split_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match=r"no split 'dev'; take one of train, validation, test"):
        load("dev")


def test_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test.jsonl.gz").write_bytes((FOLDER / "test.jsonl.gz").read_bytes()[:1000])
    monkeypatch.setattr("instil.data.synopsis.FOLDER", tmp_path)
    with pytest.raises(DataError, match=r"test\.jsonl\.gz"):
        load("test")


def test_markup_becomes_paragraphs_and_items() -> None:
    flowing, items = ("One line goes", "on here. The features", "are:"), (" * first item", "   that wraps", " - second")
    lines = (*flowing, *items, ".", "Last.")
    assert text.body_of(text.paragraphs(lines)) == (
        "One line goes on here. The features are:\n- first item that wraps\n- second\n\nLast."
    )


def test_first_sentence_does_not_end_at_an_abbreviation() -> None:
    assert text.first_sentence("Reads formats, e.g. PNG by J. Doe. Writes too.") == "Reads formats, e.g. PNG by J. Doe."


def test_boilerplate_is_cut_and_prose_stays() -> None:
    blocks = [
        ["Frob frobs. This package contains the shared library. It is fast."],
        ["Homepage: https://frob.example"],
        ["This package contains the frob."],
    ]
    kept, cuts = text.cut_boilerplate(blocks)
    assert kept == [["Frob frobs. It is fast."]]
    assert cuts == 3


def test_first_sentence_is_never_cut() -> None:
    blocks = [["This package provides a library that frobs."], ["It is fast."]]
    assert text.cut_boilerplate(blocks) == (blocks, 0)


@pytest.mark.parametrize(
    ("synopsis", "shorter"),
    [
        ("reader of old formats (Python 3)", "reader of old formats"),
        ("reader of old formats - shared library", "reader of old formats"),
        ("reader of old formats (with GUI)", "reader of old formats (with GUI)"),
        ("frob library (development files)", "frob library (development files)"),
    ],
)
def test_tail_that_names_files_is_cut(synopsis: str, shorter: str) -> None:
    assert rules.without_tail(synopsis) == shorter


@pytest.mark.parametrize("package", ["frob", "libfrob1", "libfrob-dev", "frob-utils", "python3-frob", "libfrob-2.0-0"])
def test_stem_of_siblings(package: str) -> None:
    assert rules.stem(package)[0] == "frob"


def test_select_keeps_one_of_siblings_and_drops_what_is_no_software() -> None:
    content = index(
        stanza("frob-dev", "frobnicates your files quickly - development files", *prose("frob")),
        stanza("frob", "frobnicates your files quickly", *prose("frob")),
        stanza("other-name", "another part of frob", *prose("other")),
        stanza("widget", "draws widgets on screens", *prose("widget")),
        stanza("widget-old", "transitional package for widget", *prose("old")),
        stanza("gadget-doc", "gadget for all (documentation)", *prose("gadget")),
        stanza("short", "says too little here", "Few words."),
        stanza("terse", "terse", *prose("terse")),
    )
    assert {pair.id for pair in selected(content)} == {"frob", "widget", "other-name"}
    assert {pair.id for pair in selected(content, {"frob": "frob", "other-name": "frob"})} == {"frob", "widget"}


def test_select_drops_near_duplicates() -> None:
    twin = (prose("frob")[0].replace("Frob", "Twin").replace("mapsfrob", "chartsfrob"),)
    first = stanza("frob", "frobnicates your files", *prose("frob"))
    content = index(first, stanza("twin", "twin of the other", *twin))
    assert [pair.id for pair in selected(content)] == ["frob"]


def test_synopsis_that_begins_many_others_goes() -> None:
    pairs = [tool.Pair(f"p{number}", "", f"GNU R package number {number}") for number in range(5)]
    assert tool.without_common_prefixes([tool.Pair("r", "", "GNU R package"), *pairs]) == pairs


def test_train_loses_what_leaks() -> None:
    base = " ".join(f"word{number}" for number in range(60))
    pairs = [tool.Pair(str(number), f"Opening {number}. {base}", "same old text") for number in range(6)]
    found = tool.split(pairs, tool.Log(), test=1, validation=1)
    assert [len(found[name]) for name in ("test", "validation", "train")] == [1, 1, 0]


def test_rebuild_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"pack{letter}" for letter in "abcdefghij"]
    entries = [stanza(name, f"{name} does its thing", *prose(name)) for name in names]
    plain, packed = tmp_path / "Translation-en", tmp_path / "again_Translation-en.gz"
    plain.write_text(index(*entries))
    packed.write_bytes(gzip.compress(index(*reversed(entries)).encode()))
    for source in (plain, packed):
        monkeypatch.setattr(sys, "argv", ["tool", "--index", str(source), "--out", str(tmp_path / source.name[:5])])
        assert tool.main() == 0
    one, two = ((tmp_path / folder / "test.jsonl.gz").read_bytes() for folder in ("Trans", "again"))
    assert one == two
    rows = [json.loads(line) for line in gzip.decompress(one).decode().splitlines()]
    assert sorted(row["id"] for row in rows) == names
    assert set(rows[0]) == {"id", "source", "target"}


def test_missing_index_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", "--index", str(tmp_path / "none")])
    assert tool.main() == 1
    assert "no index file at" in capsys.readouterr().err
    with pytest.raises(DataError, match="run with --update"):
        tool.find_index(tmp_path)
