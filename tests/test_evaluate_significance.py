"""Intervals cover and tests reject as often as they say, on synthetic data where the truth is known."""

import numpy as np
import pytest

from instil.evaluate import significance
from instil.evaluate.metric import Counted, Measure
from instil.evaluate.scores import score_systems
from instil.evaluate.significance import (
    bootstrap_means,
    difference_interval,
    holm,
    mean_interval,
    median_ratio_interval,
    paired_p_value,
    quantile_interval,
    ratio_interval,
)


def test_mean_interval_covers_the_true_mean_19_times_in_20() -> None:
    generator = np.random.default_rng(1)
    true_mean, trials = 100 * 0.5 / 2.0, 400
    samples = 100 * generator.beta(0.5, 1.5, (trials, 150))
    intervals = [mean_interval(sample, seed=trial, resamples=1000) for trial, sample in enumerate(samples)]
    covered = sum(interval.low <= true_mean <= interval.high for interval in intervals) / trials
    # The percentile bootstrap is a little narrow for skewed data; 4 standard errors of 0.95 are 0.044.
    assert 0.90 < covered < 0.985


def test_ratio_interval_covers_the_true_retention() -> None:
    generator = np.random.default_rng(2)
    trials, covered = 300, 0
    for trial in range(trials):
        teacher = generator.gamma(4.0, 10.0, 120)
        student = 0.9 * teacher + generator.normal(0, 8, 120)
        interval = ratio_interval(student, teacher, seed=trial, resamples=1000)
        assert interval is not None
        covered += interval.low <= 0.9 <= interval.high
    assert 0.90 < covered / trials < 0.985


def test_paired_test_rejects_equal_systems_5_times_in_100() -> None:
    generator = np.random.default_rng(3)
    trials, rejected = 600, 0
    for trial in range(trials):
        difficulty = generator.uniform(0, 60, 60)
        first, second = (difficulty + generator.uniform(0, 40, 60) for _ in range(2))
        rejected += paired_p_value(first, second, seed=trial, rounds=500) < 0.05
    assert 0.02 < rejected / trials < 0.085


def test_paired_test_sees_a_difference_that_intervals_overlap_on() -> None:
    generator = np.random.default_rng(4)
    weak = generator.uniform(0, 100, 300)
    strong = weak + generator.normal(1.0, 4.0, 300)
    assert mean_interval(weak, seed=0).high > mean_interval(strong, seed=0).low
    assert paired_p_value(strong, weak, seed=0) < 0.01
    assert difference_interval(strong, weak, seed=0).low > 0


def test_p_value_is_two_sided_and_exact_for_few_items() -> None:
    first, second = [3.0, 4.0, 5.0], [1.0, 1.0, 1.0]
    assert paired_p_value(first, second, seed=0) == paired_p_value(second, first, seed=0)
    # All 8 sign patterns are equally likely; 2 of them are as extreme as what was seen.
    assert paired_p_value(first, second, seed=0) == pytest.approx(0.25, abs=0.02)
    assert paired_p_value(first, first, seed=0) == 1.0


def test_means_agree_with_the_obvious_loop_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values_NM = np.random.default_rng(5).uniform(0, 100, (40, 3))
    whole = bootstrap_means(values_NM, seed=7, resamples=50)
    drawn_RN = np.random.default_rng(7).integers(0, 40, (50, 40))
    np.testing.assert_allclose(whole, values_NM[drawn_RN].mean(axis=1), rtol=1e-12)
    monkeypatch.setattr(significance, "_BLOCK_CELLS", 130)
    np.testing.assert_allclose(bootstrap_means(values_NM, seed=7, resamples=50), whole, rtol=1e-12)


def test_seed_repeats_and_matters() -> None:
    values = np.random.default_rng(6).uniform(0, 100, 30)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_one_item_has_an_interval_of_no_width_and_no_significance() -> None:
    interval = mean_interval([42.0], seed=0)
    assert (interval.value, interval.low, interval.high) == (42.0, 42.0, 42.0)
    assert paired_p_value([42.0], [1.0], seed=0) == 1.0
    assert ratio_interval([42.0], [84.0], seed=0) == significance.Interval(value=0.5, low=0.5, high=0.5)


def test_ratio_to_nothing_is_no_number() -> None:
    assert ratio_interval([1.0, 2.0], [0.0, 0.0], seed=0) is None
    interval = ratio_interval([1.0, 2.0], [0.0, 3.0], seed=0)
    assert interval is not None
    assert np.isfinite([interval.low, interval.high]).all()


def test_medians() -> None:
    slow, fast = np.linspace(20, 40, 21), np.linspace(10, 20, 21)
    speedup = median_ratio_interval(slow, fast, seed=0)
    assert speedup is not None
    assert speedup.value == pytest.approx(2.0)
    assert speedup.low == pytest.approx(2.0)
    p95 = quantile_interval(slow, 0.95, seed=0)
    assert p95.value == pytest.approx(39.0)
    assert p95.low <= 39.0 <= p95.high


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_values_that_make_no_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one item"):
        mean_interval(values, seed=0)


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="not 2 and 1"):
        paired_p_value([1.0, 2.0], [1.0], seed=0)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def _counted(statistics_NS: np.ndarray) -> list[Counted]:
    return [Counted(Measure(name="share", unit="%", better="lower", signature="share"), statistics_NS)]


def test_intervals_cover_the_truth_in_95_of_100_of_1000_sets() -> None:
    """Of a mean of scores, and of a share whose denominators differ from example to example, as of numbers or rows."""
    generator = np.random.default_rng(11)
    mean = share = 0
    for trial in range(1000):
        scores = 100 * generator.beta(2.0, 3.0, 100)
        found = mean_interval(scores, seed=trial, resamples=500)
        mean += found.low <= 40 <= found.high
        total = generator.integers(1, 12, 120)
        part = generator.binomial(total, generator.beta(3.0, 7.0, 120))
        counted = _counted(np.column_stack([part, total]).astype(float))
        score = score_systems({"one": counted}, seed=trial, resamples=500)["one"]["share"]
        share += score.low <= 0.3 <= score.high
    assert 930 <= mean <= 970
    assert 930 <= share <= 970


def test_false_alarms_are_at_most_55_in_1000_even_among_three_systems() -> None:
    """No system is better than the one all are held against: alone, a test is wrong 5 times in 100; corrected, any of
    the three together."""
    generator = np.random.default_rng(12)
    alone = together = 0
    for trial in range(1000):
        difficulty = generator.uniform(0.1, 0.8, 50)
        total = generator.integers(1, 12, (4, 50))
        part = generator.binomial(total, difficulty)
        systems = {
            str(number): _counted(np.column_stack([part[number], total[number]]).astype(float)) for number in range(4)
        }
        scores = score_systems(systems, against="0", seed=trial, resamples=2, rounds=199)
        found = [scores[name]["share"] for name in "123"]
        alone += found[0].p_value is not None and found[0].p_value <= 0.05
        together += any(score.p_adjusted is not None and score.p_adjusted <= 0.05 for score in found)
    assert alone <= 55
    assert together <= 55
