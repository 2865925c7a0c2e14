"""Every format gives the same records; every defect ends in one line that names the place and the remedy."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instil.core.config import parse
from instil.core.errors import ConfigError, DataError
from instil.data.config import DataConfig
from instil.data.load import load_splits
from instil.data.preflight import preflight
from instil.data.records import Record, write_jsonl

ROWS = [
    {"id": f"r{number}", "source": f'text {number}, with “signs”\nand a "quoted" line', "target": f"title {number}"}
    for number in range(5)
]
RECORDS = [Record(row["id"], row["source"], (row["target"],)) for row in ROWS]
WHOLE = {"validation_share": 0.0, "test_share": 0.0}


def load(place: Path | str, base: Path = Path(), **keys: object) -> list[Record]:
    config = parse(DataConfig, {"source": str(place), **WHOLE, **keys}, name="recipe")
    return load_splits(config, base=base)[0]["train"]


def refusal(path: Path, content: bytes | str | None = None, **keys: object) -> str:
    """The one line that loading `path` ends with."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        load(path, **keys)
    line = str(caught.value)
    assert "\n" not in line
    assert path.name in line
    assert "; " in line, "the remedy"
    return line


def write(path: Path) -> Path:
    """`ROWS` in the format that the name of `path` says."""
    plain = path.name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    if plain.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in ROWS)
    elif plain.endswith(".json"):
        text = json.dumps(ROWS, indent=1)
    else:
        lines: list[str] = []
        file = type("Lines", (), {"write": lambda self, line: lines.append(line)})()
        table = csv.DictWriter(file, list(ROWS[0]), delimiter="\t" if plain.endswith(".tsv") else ",")
        table.writeheader()
        table.writerows(ROWS)
        text = "".join(lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.TSV.gz"]
)
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    assert load(write(tmp_path / name.lower())) == RECORDS


def test_byte_order_mark_windows_lines_and_gzip_without_its_ending(tmp_path: Path) -> None:
    text = write(tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    (tmp_path / "c.jsonl").write_bytes(gzip.compress(text))
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbfsource;target\r\na b;c\r\n\r\nd e;f")
    assert load(tmp_path / "b.jsonl") == load(tmp_path / "c.jsonl") == RECORDS
    assert [(r.source, r.targets) for r in load(tmp_path / "d.csv")] == [("a b", ("c",)), ("d e", ("f",))]


def test_values_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 7, "source": 1.5, "target": true}\n{"id": null, "source": "x", "target": ["y", 2, "y"]}\n')
    first, second = load(path)
    assert first == Record("7", "1.5", ("true",))
    assert (second.source, second.targets, len(second.id)) == ("x", ("y", "2"), 16)
    assert "'source' holds an object" in refusal(path, '{"source": {"a": 1}, "target": "x"}')
    assert "half a character" in refusal(path, r'{"source": "\ud800", "target": "x"}')


def test_several_references(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,one,two,refs\na b,x,y,"[""p"", ""q""]"\nc d,z,,[]\n')
    columns = {"source": "text", "targets": ["one", "two"]}
    assert [r.targets for r in load(path, columns=columns)] == [("x", "y"), ("z",)]
    assert [r.targets for r in load(path, columns={"source": "text", "targets": "refs"})] == [("p", "q")]
    path.write_text("source,targets\na,[broken\n")
    assert "a.csv:2" in refusal(path)


def test_a_long_array_and_a_long_field(tmp_path: Path) -> None:
    long = "word " * 500_000
    (tmp_path / "a.json").write_text(json.dumps([{"source": f"{n} {long}", "target": "x"} for n in range(2)]))
    (tmp_path / "a.csv").write_text(f"source,target\n{long},x\n")
    assert [len(r.source) for r in load(tmp_path / "a.json")] == [2_500_001, 2_500_001]
    assert len(load(tmp_path / "a.csv")[0].source) == 2_499_999


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", "", ["is empty"]),
        ("a.jsonl", "\n \n", ["no records"]),
        ("a.json", "[]", ["no records"]),
        ("a.csv", "source,target\n", ["no records"]),
        ("a.jsonl", '{"source": "a", "target": "b"}\n{"source": "a", "targ\n', ["a.jsonl:2", "invalid JSON"]),
        ("a.jsonl", '{"source": "a", "target": "b"}\n\n["a", "b"]\n', ["a.jsonl:3", "holds a list"]),
        ("a.jsonl", '["a", "b"]\n', ["a.jsonl:1", "holds a list"]),
        ("a.jsonl", '{"source": ' + "[" * 100_000, ["a.jsonl:1", "invalid JSON"]),
        ("a.json", '[\n{"source": "a", "target": "b"},\n{"source": "c" "d"}]', ["a.json:3", "invalid JSON"]),
        ("a.json", '[{"source": "a", "target": "b"}', ["a.json:1", "the file ends"]),
        ("a.json", '[{"source": "a", "target": "b"}, 3]', ["a.json:1", "no object"]),
        ("a.json", '[{"source": "a", "target": "b"}] x', ["more text"]),
        ("a.json", '{\n "data": []\n}', ["a.json:1", "one whole object a line"]),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n{"source": "caf\xe9"}', ["0xe9", "offset 46", "line 2", "iconv"]),
        ("a.jsonl", '{"source": "a", "target": "b"}'.encode("utf-16"), ["UTF-16", "iconv"]),
        ("a.csv", b"source,target\na,b\0\n", ["NUL", "offset 17", "line 2"]),
        ("a.csv", 'source,target\na,b\n"open,c\nd,e\n', ["a.csv:3", "never closed"]),
        ("a.csv", 'source,target\n"a"b,c\n', ["a.csv:2", "broken quoting"]),
        ("a.csv", "source,target\na,b,c\n", ["a.csv:2", "3 fields", "the header has 2"]),
        ("a.csv", "source,target\na\n", ["a.csv:2", "1 fields"]),
        ("a.csv", "source,source,target\na,b,c\n", ["twice"]),
        ("a.csv", "source,target\ra,b\r", ["carriage returns"]),
        ("a.csv", "source,target\n,a\n,b\n", ["'source' is empty in every record"]),
        ("a.jsonl", '{"source": "a", "target": null}\n', ["'target' is empty in every record"]),
        ("a.csv", "id,source,target\n1,a,b\n1,c,d\n", ["a.csv:3", "'1'", "columns.id"]),
        ("a.jsonl.gz", b"plain", ["gzip"]),
        ("a.jsonl.gz", gzip.compress(b'{"source": "a", "target": "b"}\n' * 9, mtime=0)[:-12], ["torn gzip"]),
        ("a.parquet", b"PAR1 torn", ["Parquet"]),
        ("a.txt", "text", [".jsonl, .json"]),
    ],
)
def test_defects_are_named(tmp_path: Path, name: str, content: bytes | str, parts: list[str]) -> None:
    line = refusal(tmp_path / name, content)
    assert all(part in line for part in parts), line


def test_byte_offset_beyond_the_first_block(tmp_path: Path) -> None:
    good = b'{"source": "a", "target": "\xe2\x82\xac"}\n' * 40_000
    line = refusal(tmp_path / "a.jsonl", good + b"\xff")
    assert f"byte offset {len(good)} (line 40001)" in line


def test_torn_parquet(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.parquet").read_bytes()
    assert "Parquet" in refusal(tmp_path / "a.parquet", whole[:-9])
    damaged = bytearray(whole)
    damaged[20:200] = b"\x99" * 180
    assert "a.parquet" in refusal(tmp_path / "a.parquet", bytes(damaged))


def test_objects_may_lack_what_others_have(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"source": "a", "target": "b"}\n{"source": "c", "targets": ["d", "e"]}\n')
    assert [r.targets for r in load(path, columns={"target": ["target", "targets"]})] == [("b",), ("d", "e")]


def test_missing_columns_are_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,summary,guid\na,b,c\n")
    assert "did you mean 'text'" in refusal(path)
    assert "did you mean 'summary'" in refusal(path, columns={"source": "text"})
    assert "'text', 'summary', 'guid'" in refusal(path, columns={"source": "Text", "target": "summary"})
    assert "no column 'uid'" in refusal(path, columns={"source": "text", "target": "summary", "id": "uid"})
    assert load(path, columns={"source": "text", "target": "summary", "id": "guid"}) == [Record("c", "a", ("b",))]
    assert len(load(path, columns={"source": "text", "target": "summary", "id": None})[0].id) == 16


def test_missing_places(tmp_path: Path) -> None:
    write(tmp_path / "reviews.jsonl")
    assert "did you mean 'reviews.jsonl'" in refusal(tmp_path / "review.json")
    assert "there are reviews.jsonl" in refusal(tmp_path / "zzz")
    assert "nor does its folder" in refusal(tmp_path / "no" / "a.jsonl")
    (tmp_path / "empty").mkdir()
    assert "without data files" in refusal(tmp_path / "empty")
    with pytest.raises(DataError, match="did you mean 'synopsis'"):
        load("synopsys", tmp_path)
    with pytest.raises(DataError, match=r"s3:// addresses are not read"):
        load("s3://bucket/a.jsonl", tmp_path)


def test_a_recipe_with_mistakes_lists_them_all() -> None:
    mapping = {"source": "a", "train": "b", "colums": {}}
    with pytest.raises(ConfigError, match="did you mean 'columns'"):
        parse(DataConfig, mapping, name="recipe")
    mapping = {"source": "a", "clean": {"leakage": "of", "near_duplicates": 2}, "limit": {"trian": 3, "test": 0}}
    with pytest.raises(ConfigError) as caught:
        parse(DataConfig, mapping, name="recipe")
    places = {line.split(": ")[1] for line in str(caught.value).splitlines()}
    assert places == {"clean.near_duplicates", "clean.leakage", "limit.trian", "limit.test"}
    with pytest.raises(ConfigError, match="both are set"):
        parse(DataConfig, {"source": "a", "train": "b"}, name="recipe")
    with pytest.raises(ConfigError, match="neither is set"):
        parse(DataConfig, {}, name="recipe")


def test_a_saved_config_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("source,target\na,b\n")
    config = parse(DataConfig, {"source": str(path)}, name="recipe")
    again = parse(DataConfig, config.model_dump(mode="json"), name="recipe")
    assert again == config
    assert load_splits(again, base=tmp_path) == load_splits(config, base=tmp_path)


def test_preflight_lists_every_place(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    (tmp_path / "b.csv").write_text("text,target\na,b\n")
    keys = {"train": "a.jsonl", "validation": "b.csv", "test": "c.jsonl"}
    problems = preflight(parse(DataConfig, keys, name="recipe"), tmp_path)
    assert [problem.grade for problem in problems] == ["fail", "fail"]
    assert "no column 'source'" in str(problems[0])
    assert "does not exist" in str(problems[1])
    assert preflight(parse(DataConfig, {"source": "a.jsonl"}, name="recipe"), tmp_path) == []
    assert preflight(parse(DataConfig, {"source": "hub:a/b"}, name="recipe"), tmp_path) == []


def test_written_records_read_back(tmp_path: Path) -> None:
    records = [*RECORDS, Record("many", "one source", ("first", "second"))]
    write_jsonl(tmp_path / "a.jsonl", RECORDS)
    assert load(tmp_path / "a.jsonl") == RECORDS
    for record in records:
        write_jsonl(tmp_path / "b.jsonl.gz", [record])
        assert load(tmp_path / "b.jsonl.gz") == [record]
    before = (tmp_path / "b.jsonl.gz").read_bytes()
    write_jsonl(tmp_path / "b.jsonl.gz", records[-1:])
    assert (tmp_path / "b.jsonl.gz").read_bytes() == before
