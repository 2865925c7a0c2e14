"""Metrics against the packages that define them, and their scores, intervals and tests on known cases."""

from typing import get_args

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from instil.core.errors import ConfigError
from instil.data.records import Record
from instil.evaluate.config import DEFAULT_METRICS, MetricName
from instil.evaluate.metric import Counted, Measure
from instil.evaluate.metrics.choose import BUILDERS, Setting, choose
from instil.evaluate.outputs import ScoredOutput, score_output
from instil.evaluate.rouge import METRICS, Rouge
from instil.evaluate.scores import score_systems
from instil.evaluate.significance import difference_interval, paired_p_value

RECORDS = [
    Record("1", "A long text on foxes that jump. It ends.", ("the quick brown fox jumps over the lazy dog",)),
    Record("2", "Tools, many of them, for running simulations.", ("tools for\nrunning simulations",)),
    Record("3", "An item that has 12 of 30.", ("twelve items of 30", "12 items")),
]
OUTPUTS = ["the quick brown dog jumps on the log", "run a simulation\ntools that", "12 items"]


def scored(outputs: list[str], records: list[Record] = RECORDS) -> list[ScoredOutput]:
    rouge = Rouge()
    return [score_output(record, text, rouge=rouge, seconds=0.0) for record, text in zip(records, outputs, strict=True)]


def counted(name: MetricName, outputs: list[str] = OUTPUTS, records: list[Record] = RECORDS, **how: str) -> Counted:
    (metric,) = choose([name], Setting(records, Rouge(), **how))
    return metric.count(scored(outputs, records))


def columns(records: list[Record]) -> list[list[str | None]]:
    """References as sacrebleu wants them: a list for each number of reference."""
    most = max(len(record.targets) for record in records)
    return [[record.targets[i] if i < len(record.targets) else None for record in records] for i in range(most)]


def test_every_name_of_a_recipe_has_a_builder() -> None:
    assert tuple(BUILDERS) == get_args(MetricName)
    assert set(DEFAULT_METRICS) < set(BUILDERS)


@given(st.lists(st.text("ab .,Ж1\n", max_size=20), min_size=3, max_size=3))
def test_bleu_and_chrf_are_those_of_sacrebleu(outputs: list[str]) -> None:
    for name, theirs in (("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF())):
        golden = theirs.corpus_score(outputs, columns(RECORDS))
        ours = counted(name, outputs)  # type: ignore[arg-type]
        assert ours.value == pytest.approx(golden.score, abs=1e-6)
        assert ours.measure.signature == f"{name}|{theirs.get_signature().format()}"


def test_bleu_and_chrf_of_real_sentences() -> None:
    for name, theirs in (("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF())):
        ours = counted(name)  # type: ignore[arg-type]
        assert ours.value == pytest.approx(theirs.corpus_score(OUTPUTS, columns(RECORDS)).score, abs=1e-6)
        assert 5 < ours.value < 95


def test_rouge_is_that_of_rouge_score() -> None:
    golden = RougeScorer(list(METRICS), use_stemmer=True)
    for name in METRICS:
        best = [
            max(golden.score(target, output)[name].fmeasure for target in record.targets)
            for record, output in zip(RECORDS, OUTPUTS, strict=True)
        ]
        assert counted(name).value == pytest.approx(100 * np.mean(best), abs=1e-6)  # type: ignore[arg-type]
    assert counted("rougeLsum").value != counted("rougeL").value


def test_bleu_goes_by_characters_where_words_have_no_spaces() -> None:
    records = [Record("1", "原文", ("快速的狐狸跳过懒狗",))]
    ours = counted("bleu", ["快速的狗跳过懒狗"], records)
    assert "tok:char" in ours.measure.signature
    assert ours.value == pytest.approx(
        sacrebleu.BLEU(tokenize="char").corpus_score(["快速的狗跳过懒狗"], columns(records)).score
    )


def test_exact_match_and_accuracy() -> None:
    assert counted("exact_match").value == pytest.approx(100 / 3)
    records = [
        Record("1", "2+2?", ("It is 4. #### 4",)),
        Record("2", "?", ("#### 1,000",)),
        Record("3", "?", ("Yes",)),
        Record("4", "?", ("#### 7",)),
    ]
    outputs = ["first #### 5, no, #### 4", "so ####  1000", "#### yes", "it is 7"]
    assert counted("accuracy", outputs, records, answer=r"#### *([\w,]+)").value == 75
    assert counted("accuracy", outputs, records, answer="7|yes|Yes").value == 50
    with pytest.raises(ConfigError, match=r"set evaluate\.answer"):
        choose(["accuracy"], Setting(records, Rouge()))


def test_scores_carry_n_signature_interval_and_corrected_tests() -> None:
    generator = np.random.default_rng(0)
    records = [Record(str(i), "source", (f"word{i} same thing again and more",)) for i in range(60)]

    def written(drop: float) -> list[str]:
        return [" ".join(w for w in record.targets[0].split() if generator.random() > drop) for record in records]

    chosen = choose(["rougeL", "bleu", "exact_match"], Setting(records, Rouge()))
    texts = {"good": written(0.05), "other": written(0.3), "same": written(0.3), "bad": written(0.6)}
    systems = {name: [m.count(scored(outputs, records)) for m in chosen] for name, outputs in texts.items()}
    found = score_systems(systems, against="other", seed=0, resamples=500, rounds=999)
    good, same, bad = (found[name]["bleu"] for name in ("good", "same", "bad"))
    assert good.n == 60 and good.low < good.value < good.high
    assert good.difference is not None and good.difference.low > 0
    assert good.p_value == 0.001 and good.p_adjusted == 0.003
    assert bad.difference is not None and bad.difference.high < 0
    assert same.p_value is not None and same.p_value > 0.05
    assert found["other"]["bleu"].p_value is None
    # Means of sentence scores are what the tests on single scores say of them, drawn elsewhere.
    first, second = systems["same"][0].each, systems["other"][0].each
    ours, theirs = found["same"]["rougeL"], difference_interval(first, second, seed=0, resamples=500)
    assert ours.p_value == pytest.approx(paired_p_value(first, second, seed=0, rounds=999), abs=0.04)
    assert ours.difference is not None
    assert ours.difference.model_dump() == pytest.approx(theirs.model_dump(), abs=1e-9)


def test_a_measure_without_a_word_to_say_is_left_out() -> None:
    measure = Measure(name="some", unit="%", better="lower", signature="some")
    silent = Counted(measure, np.zeros((3, 2)))
    half = Counted(measure, np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]]))
    found = score_systems({"silent": [silent], "half": [half]}, against="silent", seed=0)
    assert found["silent"] == {}
    assert (found["half"]["some"].value, found["half"]["some"].n) == (0.5, 2)
    assert found["half"]["some"].p_value is None
