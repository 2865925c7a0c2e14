"""SARI, copying, novelty, numbers, names, repetition and likeness: published and worked examples."""

from pathlib import Path
from typing import Any

import pytest

import tiny
from instil.core.errors import ConfigError, ModelError
from instil.data.records import Record
from instil.evaluate.config import DEFAULT_METRICS, MetricName
from instil.evaluate.metrics.choose import BUILDERS, Setting, choose
from instil.evaluate.metrics.source import names, numbers
from instil.evaluate.outputs import ScoredOutput
from instil.evaluate.rouge import Rouge


def value(name: MetricName, output: str, source: str, *targets: str, **how: Any) -> float:
    """The metric of one output."""
    record = Record("1", source, targets or ("a target",))
    (metric,) = choose([name], Setting([record], Rouge(), **how))
    return metric.count([ScoredOutput("1", source, record.targets, output, 0, 0, 0, 0, 0)]).value


def test_sari_of_the_published_example() -> None:
    """The example on the metric's card in Hugging Face's `evaluate`: 26.953601953601954."""
    source = "About 95 species are currently accepted."
    references = (
        "About 95 species are currently known.",
        "About 95 species are now accepted.",
        "95 species are now accepted.",
    )
    assert value("sari", "About 95 you now get in.", source, *references) == pytest.approx(26.953601953601954, abs=1e-6)
    assert value("sari", references[1], source, references[1]) == pytest.approx(100)
    assert value("sari", source, source, "Something else entirely") < 50


def test_copying_and_novelty() -> None:
    source = "The quick brown fox jumps over the lazy dog."
    copied = "the quick brown fox sleeps under the lazy dog"
    assert value("copy_rate", copied, source) == pytest.approx(100 * 4 / 9)
    assert value("novel_1grams", copied, source) == pytest.approx(100 * 2 / 9)
    assert value("novel_2grams", copied, source) == pytest.approx(100 * 3 / 8)
    assert value("copy_rate", source, source) == 100
    assert value("novel_3grams", source, source) == 0


def test_numbers_are_one_however_written() -> None:
    assert numbers("1,000 and 1000, 1.000.000, 2.50, 2,5, 007, 3.0") == [
        "1000",
        "1000",
        "1000000",
        "2.5",
        "2.5",
        "7",
        "3",
    ]
    assert numbers("1,234.50 or 1.234,5; version 1.2.13; 12\u202f000") == ["1234.5", "1234.5", "1.2.13", "12000"]
    assert numbers("٣ و ١٢") == ["3", "12"]
    assert value("unsupported_numbers", "It cost 1000 in 2021.", "Cost: 1,000.") == 50


def test_names() -> None:
    assert names("Yesterday Ann Bo met iPhone users. She left O'Neill & Co. (The end)") == [
        "Ann", "Bo", "iPhone", "O'Neill", "Co",
    ]  # fmt: skip
    source = "ann went to Paris with O’Neill"
    assert value("unsupported_names", "There Ann of Rome met O’Neill.", source) == pytest.approx(100 / 3)
    assert names("быстрая лиса. 快速的狐狸") == []


def test_manner() -> None:
    assert value("repetition", "a b c d a b c d", "") == pytest.approx(20)
    assert value("repetition", "a b c d e", "") == 0
    assert value("length_ratio", "one two three", "", "one two", "other") == 1.5


def test_likeness_by_a_local_model(tmp_path: Path) -> None:
    for name, kind in (("llama", "decoder-only"), ("t5", "encoder-decoder")):
        tiny.tiny_model(name).save_pretrained(tmp_path / name)
        tiny.tiny_tokenizer(kind).save_pretrained(tmp_path / name)  # type: ignore[arg-type]
        how = {"embedder": str(tmp_path / name)}
        same = value("embedding_similarity", "a text", "", "other", "a text", **how)
        assert same == pytest.approx(100, abs=1e-3)
        assert -100 <= value("embedding_similarity", "", "", "a text", **how) < 99
    with pytest.raises(ModelError, match="no model in this folder"):
        value("embedding_similarity", "a", "", embedder=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"set evaluate\.embedder"):
        value("embedding_similarity", "a", "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a",
        "👩‍👩‍👧 🏳️‍🌈",
        "\x00\x1b[31m",
        "x" * 5000,
        "漢字かな",
        "١٬٠٠٠",
        "\ud83d".encode("utf8", "replace").decode(),
    ],
)
def test_no_metric_stumbles_over_any_text(text: str) -> None:
    names = [name for name in BUILDERS if name != "embedding_similarity"]
    for output, source in ((text, "plain"), ("plain", text), (text, text)):
        record = Record("1", source, (text,))
        for metric in choose(names, Setting([record], Rouge(), answer="(.*)")):
            counted = metric.count([ScoredOutput("1", source, (text,), output, 0, 0, 0, 0, 0)])
            assert not counted.statistics_NS.min() < 0
    assert set(DEFAULT_METRICS) <= set(names)
