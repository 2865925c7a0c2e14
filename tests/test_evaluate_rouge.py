"""ROUGE against `rouge-score` itself, and what `rouge-score` cannot see: other scripts."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from instil.core.errors import ConfigError, DataError
from instil.evaluate.rouge import METRICS, Rouge, tokenizer_for

PAIRS = [
    ("the quick brown fox jumps over the lazy dog", "the quick brown dog jumps on the log"),
    ("Tools for running simulations", "tool that runs a simulation of runners"),
    ("e.g. GNU's C++ compiler, version 12.2", "GNU C compiler 12"),
    ("naïve café", "naive cafe"),
    ("", "an empty output scores nothing"),
    ("same words", "same words"),
    ("...", "punctuation only"),
]


@pytest.fixture(scope="module")
def rouge() -> Rouge:
    return Rouge()


@pytest.mark.parametrize(("output", "target"), PAIRS)
def test_one_reference_equals_rouge_score(rouge: Rouge, output: str, target: str) -> None:
    golden = RougeScorer(list(METRICS), use_stemmer=True).score(target, output)
    ours = rouge.score(output, [target])
    assert [getattr(ours, metric) for metric in METRICS] == [100 * golden[metric].fmeasure for metric in METRICS]


@given(st.text("abc de.", max_size=30), st.lists(st.text("abc de.", max_size=30), min_size=1, max_size=4))
def test_several_references_take_the_best_of_each_metric(output: str, targets: list[str]) -> None:
    golden = RougeScorer(list(METRICS), use_stemmer=True)
    ours = Rouge().score(output, targets)
    for metric in METRICS:
        assert getattr(ours, metric) == 100 * max(golden.score(target, output)[metric].fmeasure for target in targets)


def test_known_numbers(rouge: Rouge) -> None:
    # Worked by hand: 3 of 4 words and 1 of 3 pairs match; the longest common subsequence is "a b d".
    scores = rouge.score("a b x d", ["a b c d"])
    assert (scores.rouge1, scores.rougeL) == (75.0, 75.0)
    assert scores.rouge2 == pytest.approx(100 / 3)


def test_signature(rouge: Rouge) -> None:
    assert rouge.signature("rougeL", [1, 1]) == (
        "rougeL|nrefs:1|stem:yes|refs:best|case:lc|tok:rouge-score|version:0.1.2"
    )
    assert "nrefs:var" in rouge.signature("rouge1", [1, 2])
    assert "stem:no|" in Rouge(tokenizer="unicode").signature("rouge1", [1])


@pytest.mark.parametrize(
    ("output", "target", "expected"),
    [
        ("Быстрая лиса", "быстрая  лиса!", 100),
        ("快速的狐狸", "快速的狗", 100 * 2 * 3 / 9),
        ("हिन्दी भाषा", "हिन्दी", 100 * 2 / 3),
        ("cafe\u0301", "caf\u00e9", 100),
        ("Straße", "STRASSE", 0),
        ("plain words", "plain words", 100),
    ],
)
def test_unicode_tokenizer_sees_every_script(output: str, target: str, expected: float) -> None:
    assert Rouge(tokenizer="unicode").score(output, [target]).rouge1 == pytest.approx(expected)


def test_tokenizer_is_chosen_by_the_letters() -> None:
    assert tokenizer_for(["plain English words " * 20 + "and a naïve one"]) == "rouge-score"
    assert tokenizer_for(["обычный текст"]) == "unicode"
    assert tokenizer_for(["", "123 ..."]) == "rouge-score"
    assert tokenizer_for([]) == "rouge-score"


def test_mistakes_end_in_one_line(rouge: Rouge) -> None:
    with pytest.raises(DataError, match="no reference"):
        rouge.score("text", [])
    with pytest.raises(ConfigError, match="choose one of rouge-score, unicode"):
        Rouge(tokenizer="bert")  # type: ignore[arg-type]


def test_evaluate_does_not_load_torch() -> None:
    code = "import instil.evaluate.compare, sys; print('torch' in sys.modules or 'nltk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
