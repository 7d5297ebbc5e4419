"""Means, spreads and intervals against numpy, scipy and hand counts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.statistics import Summary, paired_difference, summarise

COUNTS = ((1, 311), (2, 298), (3, 47))
"""Correct images at each seed."""


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_agrees_with_numpy_and_scipy(values: list[float]) -> None:
    summary = summarise(values)
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    if np.std(values) > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert summary.interval == pytest.approx((low, high))


def test_hand_count() -> None:
    summary = summarise([1.0, 2.0, 3.0])
    assert (summary.mean, summary.std, summary.n) == (2.0, 1.0, 3)
    # t(0.975, 2) = 4.302653.
    assert summary.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize(("values", "std"), [([97.5], None), ([0.1] * 3, 0.0), ([2.5] * 2, 0.0)])
def test_one_run_and_equal_runs_have_no_interval(values: list[float], std: float | None) -> None:
    summary = summarise(values)
    assert (summary.std, summary.interval) == (std, None)


def test_diverged_runs_are_counted_only() -> None:
    summary = summarise([90.0, 92.0], diverged=1)
    assert (summary.mean, summary.n, summary.diverged, summary.runs) == (91.0, 2, 1, 3)
    assert summarise([], diverged=2) == Summary(None, None, 0, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="cannot be averaged"):
        summarise([90.0, bad])


def test_differences_are_paired_by_seed() -> None:
    ours, theirs = {1: 90.0, 2: 80.0, 3: 70.0}, {2: 79.0, 1: 89.0, 4: 0.0}
    summary = paired_difference(ours, theirs)
    assert (summary.mean, summary.std, summary.n) == (1.0, 0.0, 2)


def test_equal_differences() -> None:
    """Of counts of correct images, of which each accuracy in per cent is rounded by itself."""
    ours, theirs = ({seed: 100 * (n + more) / 360 for seed, n in COUNTS} for more in (7, 0))
    exact = {ours[seed] - theirs[seed] for seed in ours}
    assert len(exact) > 1
    summary = paired_difference(ours, theirs)
    assert summary.mean == pytest.approx(100 * 7 / 360)
    assert (summary.std, summary.n, summary.interval) == (0.0, 3, None)
