"""Intervals are those of scipy at 99 %, and verdicts follow from intervals alone."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.statements import Claim, Relation, Statement
from theory.statistics import (
    LEVEL,
    Interval,
    exact,
    geometric_mean,
    mean,
    proportion,
    slope,
    student_mean,
)

Array = npt.NDArray[np.float64]

# Means


def test_the_bootstrap_is_scipys() -> None:
    sample = np.random.default_rng(3).standard_exponential(30)
    found = scipy.stats.bootstrap(
        (sample,), np.mean, confidence_level=0.99, n_resamples=4000, rng=np.random.default_rng(5)
    ).confidence_interval
    interval = mean(sample, seed=5)
    assert (interval.low, interval.high) == pytest.approx((found.low, found.high), rel=1e-12)
    assert interval == mean(sample.tolist(), seed=5)
    assert interval != mean(sample, seed=6)


@pytest.mark.parametrize("scale", [1e-300, 1e-17, 1.0, 1e100])
def test_a_mean_has_an_interval_however_small_or_close_its_values(scale: float) -> None:
    for values in ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0 + 2**-51]):
        found = mean([scale * value for value in values])
        assert min(values) * scale <= found.low < found.high <= max(values) * scale * (1 + 1e-15)
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("estimate", [mean, student_mean])
def test_means_of_equal_diverged_and_missing_values(estimate: Any) -> None:
    assert estimate([0.25] * 5) == exact(0.25)
    for value in (math.inf, -math.inf, math.nan):
        found = estimate([1.0, value, 2.0])
        assert (found.value, found.low, found.high) == (math.inf, -math.inf, math.inf)
    for values in ([], [1.0]):
        with pytest.raises(ValueError, match=f"{len(values)} values: expected at least 2"):
            estimate(values)


def test_a_geometric_mean_is_the_mean_of_the_logarithms() -> None:
    values = np.exp(np.random.default_rng(4).standard_normal(6))
    found = geometric_mean(values)
    assert found.value == pytest.approx(scipy.stats.gmean(values))
    logs = np.log(values)
    ends = scipy.stats.t.interval(LEVEL, 5, logs.mean(), scipy.stats.sem(logs))
    assert (found.low, found.high) == pytest.approx(np.exp(ends))
    # In other units everything is as many times larger.
    scaled = geometric_mean(1e3 * values)
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx(
        (1e3 * found.value, 1e3 * found.low, 1e3 * found.high)
    )


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, -math.inf, math.nan])
def test_a_ratio_without_a_logarithm_leaves_the_geometric_mean_unknown(value: float) -> None:
    found = geometric_mean([1.0, value, 2.0])
    assert (found.value, found.low, found.high) == (math.inf, 0.0, math.inf)


# Slopes


@given(
    power=st.floats(-5, 5),
    factor=st.floats(1e-6, 1e6),
    x=st.lists(st.integers(1, 60), min_size=3, max_size=12).filter(lambda x: len(set(x)) > 1),
)
def test_the_slope_of_a_power_law_is_its_power(power: float, factor: float, x: list[int]) -> None:
    values = np.array(x, dtype=np.float64)
    found = slope(values, factor * values**power)
    assert found.value == pytest.approx(power, abs=1e-9)
    assert found.low - 1e-6 <= power <= found.high + 1e-6
    assert found.half_width < 1e-4


def test_the_slope_is_that_of_polyfit_with_students_interval() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat([1.0, 2.0, 5.0, 30.0], 3)
    y = 3 * x**1.5 * np.exp(0.3 * rng.standard_normal(12))
    coefficients, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    wide = scipy.stats.t.ppf(0.995, 10) * math.sqrt(covariance[0, 0])
    found = slope(x, y)
    assert found.value == pytest.approx(coefficients[0])
    assert (found.low, found.high) == pytest.approx((found.value - wide, found.value + wide))


def test_a_constant_has_slope_zero() -> None:
    assert slope([1.0, 2.0, 4.0], [0.3] * 3) == exact(0.0)
    # Values that differ have one logarithm, too.
    assert slope([1.0, 1.0, 2.0], [4.0, 4.0, np.nextafter(4.0, 0.0)]) == exact(0.0)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_value_without_a_logarithm_leaves_the_slope_unknown(value: float) -> None:
    for x, y in (([1.0, 2.0, 3.0], [1.0, value, 2.0]), ([1.0, value, 3.0], [1.0, 2.0, 2.0])):
        found = slope(x, y)
        assert all(map(math.isnan, (found.value, found.low, found.high)))


@pytest.mark.parametrize("x", [[], [1.0], [1.0, 2.0], [1.0, 1.0, 1.0]])
def test_the_slope_of_fewer_than_three_points_at_two_places_is_unknown(x: list[float]) -> None:
    found = slope(x, [float(i + 1) for i in range(len(x))])
    assert all(map(math.isnan, (found.value, found.low, found.high)))


# Frequencies


@given(trials=st.integers(1, 3000), data=st.data())
def test_a_proportion_has_clopper_and_pearsons_interval(trials: int, data: st.DataObject) -> None:
    count = data.draw(st.one_of(st.sampled_from([0, trials]), st.integers(0, trials)))
    found = proportion(count, trials)
    beta = scipy.stats.beta.ppf
    low = 0.0 if count == 0 else beta(0.005, count, trials - count + 1)
    high = 1.0 if count == trials else beta(0.995, count + 1, trials - count)
    assert found.value == count / trials
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-8, abs=1e-12)


def test_a_proportion_needs_trials() -> None:
    with pytest.raises(ValueError, match="n must be"):
        proportion(0, 0)


# Verdicts


def never(violations: int, trials: int, diverged: int = 0) -> Statement:
    claim = Claim(id="a", source="Lemma 1", claim="$x$", measure="$y$", relation="never")
    counts = {"trials": trials, "violations": violations, "diverged": diverged}
    return claim.judge(proportion(violations, trials), {}, **counts)


def statement(relation: Relation, measured: Interval, **rest: Any) -> Statement:
    texts = {"id": "a", "source": "Theorem 2", "claim": "$x$", "measure": "$y$"}
    given_ = {"predicted": 1.0, "trials": 20, **rest}
    return Statement(relation=relation, **vars(measured), **texts, **given_)


HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
TRUTH_TABLE: list[tuple[Relation, tuple[float, float], str]] = [
    ("at most", (0.2, 0.8), HOLDS), ("at most", (0.2, 1.0), HOLDS), ("at most", (0.2, 1.1), OPEN),
    ("at most", (1.0, 1.1), OPEN), ("at most", (1.01, 1.1), FAILS), ("at least", (1.2, 1.8), HOLDS),
    ("at least", (1.0, 1.8), HOLDS), ("at least", (0.9, 1.8), OPEN), ("at least", (0.9, 1.0), OPEN),
    ("at least", (0.9, 0.99), FAILS), ("equals", (0.9, 1.1), HOLDS), ("equals", (1.0, 1.0), HOLDS),
    ("equals", (1.0, 1.3), HOLDS), ("equals", (0.5, 1.1), OPEN), ("equals", (0.9, 2.1), OPEN),
    ("equals", (1.01, 1.1), FAILS), ("equals", (0.9, 0.99), FAILS), ("equals", (1.01, 9.0), FAILS),
    ("at most", (-math.inf, math.inf), OPEN), ("at least", (-math.inf, math.inf), OPEN),
    ("equals", (-math.inf, math.inf), OPEN)]  # fmt: skip


@pytest.mark.parametrize(("relation", "ends", "verdict"), TRUTH_TABLE)
def test_the_verdict_is_that_of_the_truth_table(
    relation: Relation, ends: tuple[float, float], verdict: str
) -> None:
    low, high = ends
    middle = (low + high) / 2 if math.isfinite(high) else 1.0
    found = statement(relation, Interval(middle, low, high), tolerance=0.2)
    assert found.verdict == verdict
    # A trial that diverged settles it, however good the rest.
    assert statement(relation, found.measured, tolerance=0.2, diverged=1).verdict == FAILS


@pytest.mark.parametrize(
    ("violations", "trials", "verdict"),
    [(0, 51, HOLDS), (0, 50, OPEN), (0, 2, OPEN), (1, 10**6, FAILS), (104, 104, FAILS)],
)
def test_never_needs_enough_trials(violations: int, trials: int, verdict: str) -> None:
    found = never(violations, trials)
    assert found.verdict == verdict
    assert (found.relation, found.predicted, found.tolerance) == ("never", 0.0, 0.1)
    assert (found.violations, found.trials) == (violations, trials)
    assert found.measured == proportion(violations, trials)
    assert never(violations, trials, diverged=1).verdict == FAILS


ANY = st.one_of(st.floats(-3, 3), st.sampled_from([-math.inf, math.inf, math.nan, 0.0, 1.0]))


@settings(max_examples=200)
@given(
    relation=st.sampled_from(["equals", "at most", "at least"]),
    ends=st.tuples(ANY, ANY, ANY),
    predicted=ANY,
    tolerance=st.floats(0, 3),
    diverged=st.sampled_from([0, 0, 0, 2]),
)
def test_nothing_holds_against_its_interval(
    relation: Relation,
    ends: tuple[float, float, float],
    predicted: float,
    tolerance: float,
    diverged: int,
) -> None:
    low, value, high = sorted(ends, key=lambda end: (math.isnan(end), end))
    unknown = any(map(math.isnan, (*ends, predicted)))
    counts = {"predicted": predicted, "tolerance": tolerance, "diverged": diverged}
    verdict = statement(relation, Interval(value, low, high), **counts).verdict
    above, below = low > predicted, high < predicted
    excluded = {"at most": above, "at least": below}.get(relation, above or below)
    if unknown:
        assert verdict == OPEN
    else:
        assert (verdict == FAILS) == (excluded or diverged > 0)
    if verdict == HOLDS and relation == "equals":
        assert max(high - value, value - low) <= tolerance


def test_an_equality_needs_a_tolerance() -> None:
    with pytest.raises(ValueError, match="expected a tolerance"):
        statement("equals", exact(1.0))
