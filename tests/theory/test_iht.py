"""Iterative hard thresholding, its test problem, its oracles and the rate of Theorem 2."""

from __future__ import annotations

import csv
import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acdc.theory import experiment
from acdc.theory.experiment import Settings, iht_command, run, write
from acdc.theory.iht import hard_threshold, iht, top_k_support
from acdc.theory.oracles import FullGradient, GaussianNoise, GradientOracle, MiniBatch
from acdc.theory.problems import Array, LeastSquares, random_least_squares, sparse_vector
from acdc.theory.rates import Theorem2

SMALL = Settings(
    n=100,
    m=120,
    k_star=1,
    k_ratios=(1, 8, 100),
    kappa=1.25,
    sigmas=(0.5,),
    batch_sizes=(60,),
    seeds=(0, 1),
    iterations=30,
    floor_iterations=10,
)


def problem(n: int = 30, m: int = 40, k_star: int = 3, kappa: float = 4.0) -> LeastSquares:
    return random_least_squares(n, m, k_star, kappa, np.random.default_rng(7))


def distance2(iterates: Array, minimiser: Array) -> Array:
    return np.asarray(np.sum((iterates - minimiser) ** 2, axis=-1))


# T_k


def nearest_by_search(x: Array, k: int) -> Array:
    """Among all supports of size k, the first in lexicographic order that is nearest to x."""
    best = -1.0
    kept: tuple[int, ...] = ()
    for support in itertools.combinations(range(len(x)), k):
        energy = float(np.sum(x[list(support)] ** 2))
        if energy > best:
            best, kept = energy, support
    nearest = np.zeros_like(x)
    nearest[list(kept)] = x[list(kept)]
    return nearest


# Small whole numbers tie often, and their squares add without rounding.
@given(
    x=hnp.arrays(np.float64, st.integers(1, 7), elements=st.integers(-3, 3).map(float)),
    data=st.data(),
)
def test_hard_threshold_is_the_nearest_sparse_vector_and_ties_keep_the_lowest_index(
    x: Array, data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, len(x)))
    np.testing.assert_array_equal(hard_threshold(x, k), nearest_by_search(x, k))
    support = top_k_support(x, k)
    assert len(set(support.tolist())) == k
    assert (np.diff(support) > 0).all()


@given(
    x=hnp.arrays(np.float64, st.integers(1, 200), elements=st.sampled_from([-2.0, 0.0, 1.0, 2.0])),
    data=st.data(),
)
def test_support_is_the_head_of_a_stable_sort(x: Array, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(x)))
    head = np.argsort(-np.abs(x), kind="stable")[:k]
    np.testing.assert_array_equal(top_k_support(x, k), np.sort(head))


def test_hard_threshold_keeps_infinities_and_leaves_its_argument_alone() -> None:
    x = np.array([1.0, -np.inf, 3.0])
    np.testing.assert_array_equal(hard_threshold(x, 1), [0.0, -np.inf, 0.0])
    np.testing.assert_array_equal(x, [1.0, -np.inf, 3.0])


@pytest.mark.parametrize(("x", "k"), [([1.0, 2.0], 3), ([1.0, 2.0], -1), ([1.0, math.nan], 1)])
def test_hard_threshold_refuses_what_it_cannot_rank(x: list[float], k: int) -> None:
    with pytest.raises(ValueError, match=r"k = |NaN"):
        hard_threshold(np.array(x), k)


@given(data=st.data())
def test_lemma_1_bounds_the_error_of_thresholding(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 12), label="n")
    k_star = data.draw(st.integers(1, n - 1), label="k*")
    k = data.draw(st.integers(k_star, n), label="k")
    numbers = st.floats(-100.0, 100.0, width=16)
    x = data.draw(hnp.arrays(np.float64, n, elements=numbers), label="x")
    other = np.zeros(n)
    support = data.draw(st.permutations(range(n)), label="support")[:k_star]
    other[support] = data.draw(hnp.arrays(np.float64, k_star, elements=numbers), label="x*")
    error = distance2(hard_threshold(x, k), x)
    for sparse in (other, hard_threshold(x, k_star)):
        assert error <= (n - k) / (n - k_star) * distance2(sparse, x) * (1 + 1e-12)


def test_lemma_1_is_tight_where_all_entries_are_equal() -> None:
    x = np.full(10, -1.0)
    error = distance2(hard_threshold(x, 7), x)
    assert error == 3.0 == (10 - 7) / (10 - 2) * distance2(hard_threshold(x, 2), x)


# The problem


@pytest.mark.parametrize("m", [30, 45])
def test_alpha_and_beta_are_the_extreme_curvatures(m: int) -> None:
    instance = problem(n=30, m=m, kappa=5.0)
    curvature = np.linalg.eigvalsh(instance.design.T @ instance.design / m)
    assert curvature[0] == pytest.approx(instance.alpha, rel=1e-10)
    assert curvature[-1] == pytest.approx(instance.beta, rel=1e-10)
    assert instance.beta / instance.alpha == pytest.approx(5.0)
    # Prescribed ends alone could leave the rest degenerate.
    np.testing.assert_allclose(np.diff(np.log(curvature)), np.log(5.0) / 29, rtol=1e-6)


def test_loss_is_the_mean_squared_residual_halved() -> None:
    instance = problem()
    thetas = np.random.default_rng(0).standard_normal((3, 30))
    target = instance.design @ instance.minimiser
    for theta, loss in zip(thetas, instance.loss(thetas), strict=True):
        residual = instance.design @ theta - target
        assert loss == pytest.approx(residual @ residual / (2 * 40))
    assert instance.loss(instance.minimiser) == instance.minimum == 0.0


def test_gradient_is_the_slope_of_the_loss() -> None:
    instance = problem()
    theta = np.random.default_rng(0).standard_normal(30)
    # The loss is quadratic, so a central difference has no truncation error, whatever the step.
    slopes = [
        (instance.loss(theta + 0.5 * unit) - instance.loss(theta - 0.5 * unit)).item()
        for unit in np.eye(30)
    ]
    np.testing.assert_allclose(instance.gradient(theta), slopes, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(instance.gradient(instance.minimiser), np.zeros(30))


def test_gradient_is_the_mean_of_the_row_gradients() -> None:
    instance = problem()
    theta = np.random.default_rng(0).standard_normal(30)
    rows = np.stack([instance.row_gradient(theta, np.array([i])) for i in range(40)])
    full = instance.gradient(theta)
    np.testing.assert_allclose(rows.mean(axis=0), full, rtol=1e-10, atol=1e-12)
    variance = np.mean(np.sum((rows - full) ** 2, axis=1))
    assert instance.row_variance(theta) == pytest.approx(variance)


@given(seed=st.integers(0, 1000), k=st.integers(1, 20))
def test_sparse_vector_has_its_count_and_magnitudes(seed: int, k: int) -> None:
    vector = sparse_vector(20, k, np.random.default_rng(seed))
    magnitude = np.abs(vector[vector != 0.0])
    assert len(magnitude) == k
    assert ((magnitude >= 1.0) & (magnitude <= 2.0)).all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [((10, 9, 2, 2.0), "m = 9"), ((10, 10, 0, 2.0), "k_star = 0"), ((10, 10, 2, 0.5), "kappa")],
)
def test_impossible_problems_are_refused(shape: tuple[int, int, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_least_squares(*shape, np.random.default_rng(0))


# The oracles


@pytest.mark.parametrize("kind", ["gaussian", "one row", "batch"])
def test_oracle_has_the_mean_and_the_variance_that_it_states(kind: str) -> None:
    instance, draws = problem(), 4000
    theta = np.random.default_rng(1).standard_normal(30)
    rng = np.random.default_rng(2)
    oracles: dict[str, GradientOracle] = {
        "gaussian": GaussianNoise(instance, 0.3, rng),
        "one row": MiniBatch(instance, 1, rng),
        "batch": MiniBatch(instance, 15, rng),
    }
    oracle = oracles[kind]
    errors = np.stack([oracle(theta) for _ in range(draws)]) - instance.gradient(theta)
    variance = oracle.variance(theta).item()
    assert np.mean(np.sum(errors**2, axis=1)) == pytest.approx(variance, rel=0.1)
    # ||mean error||^2 has expectation variance / draws; a bias of 6% of sigma would show.
    assert np.sum(errors.mean(axis=0) ** 2) < 3.0 * variance / draws
    assert oracle.variance(np.stack([theta, theta])) == pytest.approx([variance, variance])


def test_gaussian_noise_has_the_variance_sigma2_everywhere_and_is_isotropic() -> None:
    instance = problem()
    oracle = GaussianNoise(instance, 0.3, np.random.default_rng(3))
    assert oracle.variance(instance.minimiser) == pytest.approx(0.09)
    noise = np.stack([oracle(instance.minimiser) for _ in range(4000)])
    np.testing.assert_allclose(noise.var(axis=0), 0.09 / 30, rtol=0.2)


def test_minibatch_noise_vanishes_at_the_minimiser_and_without_a_choice_of_rows() -> None:
    instance = problem()
    theta = np.random.default_rng(1).standard_normal(30)
    rng = np.random.default_rng(0)
    assert MiniBatch(instance, 5, rng).variance(instance.minimiser) == 0.0
    np.testing.assert_array_equal(MiniBatch(instance, 5, rng)(instance.minimiser), np.zeros(30))
    everything = MiniBatch(instance, 40, rng)
    assert everything.variance(theta) == 0.0
    np.testing.assert_allclose(everything(theta), instance.gradient(theta), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [0, 41])
def test_minibatch_refuses_a_size_that_the_rows_cannot_fill(size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size = {size}: expected 1 <= batch_size <= 40"):
        MiniBatch(problem(), size, np.random.default_rng(0))


# The iteration


def test_iht_is_the_written_recursion() -> None:
    instance = problem()
    start = sparse_vector(30, 6, np.random.default_rng(5))
    iterates = iht(FullGradient(instance), start, 6, 0.8, 2)
    assert iterates.shape == (3, 30)
    np.testing.assert_array_equal(iterates[0], start)
    for before, after in itertools.pairwise(iterates):
        moved = before - 0.8 * instance.gradient(before)
        np.testing.assert_array_equal(after, hard_threshold(moved, 6))


@pytest.mark.parametrize("k", [5, 20])
def test_iht_recovers_a_sparse_minimiser_exactly(k: int) -> None:
    instance = random_least_squares(120, 150, 5, 2.0, np.random.default_rng(3))
    last = iht(FullGradient(instance), np.zeros(120), k, 1.0, 60)[-1]
    np.testing.assert_allclose(last, instance.minimiser, atol=1e-12)


def test_iht_says_that_it_diverges() -> None:
    instance = problem()
    with pytest.raises(OverflowError, match="step_size = 100 is too large"):
        iht(FullGradient(instance), np.zeros(30), 30, 100.0, 200)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    k=st.sampled_from([2, 3, 8, 40, 100, 116]),
    kappa=st.sampled_from([1.05, 3.0]),
)
def test_every_deterministic_step_meets_the_bound_of_theorem_2(
    seed: int, k: int, kappa: float
) -> None:
    rng = np.random.default_rng(seed)
    # k* = 1 and kappa = 1.05: 64 k* kappa^2 = 70.6, so that the largest k meet the condition.
    k_star = 1 if kappa == 1.05 else 2
    instance = random_least_squares(116, 116, k_star, kappa, rng)
    theorem = Theorem2(instance.alpha, instance.beta, k_star, k)
    assert theorem.meets_condition == (kappa == 1.05 and k >= 71)
    start = 10.0 * sparse_vector(116, k, rng)
    distance = distance2(
        iht(FullGradient(instance), start, k, theorem.step_size, 25), instance.minimiser
    )
    rounding = 1e-24 * distance[0]
    assert (distance[1:] <= theorem.step_bound(distance[:-1]) * (1 + 1e-9) + rounding).all()
    if not theorem.is_vacuous:
        assert (distance <= theorem.distance2_bound(distance[0], 25) * (1 + 1e-9) + rounding).all()


@pytest.mark.parametrize("kind", ["gaussian", "batch"])
@pytest.mark.parametrize("k", [2, 10, 40])
def test_a_stochastic_step_meets_the_bound_in_the_mean(kind: str, k: int) -> None:
    instance = random_least_squares(40, 60, 2, 2.0, np.random.default_rng(11))
    rng = np.random.default_rng(12)
    theta = hard_threshold(instance.minimiser + 0.1 * sparse_vector(40, k, rng), k)
    oracles: dict[str, GradientOracle] = {
        "gaussian": GaussianNoise(instance, 2.0, rng),
        "batch": MiniBatch(instance, 2, rng),
    }
    oracle = oracles[kind]
    theorem = Theorem2(instance.alpha, instance.beta, 2, k)
    after = [iht(oracle, theta, k, theorem.step_size, 1)[1] for _ in range(1000)]
    measured = np.mean(distance2(np.stack(after), instance.minimiser))
    before = distance2(theta, instance.minimiser)
    assert measured <= theorem.step_bound(before, oracle.variance(theta))
    # Without the noise term the bound would be wrong.
    if k == 40:
        assert measured > theorem.step_bound(before)


# The rate


def test_the_rate_by_hand() -> None:
    # sqrt(k*/k) = 1/4: expansion 25/16, factor 25/16 * 1/2; floor (25/16 * 4) / (1 - 25/32).
    theorem = Theorem2(alpha=0.5, beta=1.0, k_star=2, k=32, sigma=2.0)
    assert theorem.factor == pytest.approx(0.78125)
    assert not theorem.is_vacuous
    assert not theorem.meets_condition
    assert theorem.distance2_floor == pytest.approx(6.25 / 0.21875)
    assert theorem.gap_floor == pytest.approx(3.125 / 0.21875)
    assert theorem.stated_distance2_floor == pytest.approx(16.0)
    assert theorem.stated_gap_floor == pytest.approx(8.0)
    assert theorem.distance2_bound(8.0, 1) == pytest.approx([8.0, 12.5])
    assert theorem.gap_bound(8.0, 1) == pytest.approx([4.0, 6.25])
    # Another beta: lengths scale by 1/beta.
    scaled = Theorem2(alpha=2.0, beta=4.0, k_star=2, k=32, sigma=2.0)
    assert scaled.step_size == 0.25
    assert scaled.factor == pytest.approx(theorem.factor)
    assert scaled.distance2_floor == pytest.approx(theorem.distance2_floor / 16.0)
    assert scaled.gap_floor == pytest.approx(theorem.gap_floor / 4.0)
    assert scaled.distance2_bound(0.5, 1) == pytest.approx([8.0 / 16.0, 12.5 / 16.0])


@pytest.mark.filterwarnings("error")
def test_a_factor_of_one_or_more_is_vacuous() -> None:
    # (1 + sqrt(1/k))^2 / 2 < 1 iff k > 1 / (sqrt(2) - 1)^2 = 5.83.
    assert [Theorem2(0.5, 1.0, 1, k).is_vacuous for k in (1, 5, 6, 100)] == [True, True] + [
        False
    ] * 2
    vacuous = Theorem2(0.5, 1.0, 1, 4)
    assert vacuous.factor == pytest.approx(1.125)
    assert vacuous.distance2_floor == math.inf
    assert vacuous.gap_bound(1.0, 10_000)[-1] == math.inf
    assert vacuous.iterations_to_gap(1.0, 1e-8) is None


def test_the_condition_of_the_theorem_is_64_kappa2() -> None:
    assert not Theorem2(0.5, 1.0, 5, 1279).meets_condition
    assert Theorem2(0.5, 1.0, 5, 1280).meets_condition


@given(
    kappa=st.floats(1.0, 1e4),
    k_star=st.integers(1, 50),
    sigma=st.floats(1e-3, 1e3),
    more=st.floats(1, 9),
)
def test_under_the_condition_the_recursion_implies_the_stated_floor(
    kappa: float, k_star: int, sigma: float, more: float
) -> None:
    k = math.ceil(64 * k_star * kappa**2 * more * (1 + 1e-9))
    theorem = Theorem2(1.0 / kappa, 1.0, k_star, k, sigma)
    assert theorem.meets_condition
    assert not theorem.is_vacuous
    assert theorem.distance2_floor <= theorem.stated_distance2_floor
    assert theorem.gap_floor <= theorem.stated_gap_floor


@pytest.mark.parametrize("sigma", [0.0, 1e-4])
@pytest.mark.parametrize("kappa", [1.0, 2.0, 8.0])
def test_predicted_iterations_are_the_first_at_which_the_bound_is_low_enough(
    sigma: float, kappa: float
) -> None:
    theorem = Theorem2(1.0 / kappa, 1.0, 1, 4000, sigma)
    first = theorem.iterations_to_gap(10.0, 1e-6)
    assert first is not None
    bound = theorem.gap_bound(10.0, first)
    assert bound[-1] <= 1e-6 * (1 + 1e-9)
    assert first == 0 or bound[-2] > 1e-6
    assert theorem.iterations_to_gap(1e-12, 1e-6) == 0


def test_a_level_below_the_floor_is_never_predicted() -> None:
    assert Theorem2(0.5, 1.0, 1, 256, sigma=1.0).iterations_to_gap(10.0, 1e-6) is None


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ((0.0, 1.0, 1, 1, 0.0), "alpha"),
        ((2.0, 1.0, 1, 1, 0.0), "alpha"),
        ((1.0, 1.0, 2, 1, 0.0), "k_star"),
        ((1.0, 1.0, 1, 1, -1.0), "sigma"),
    ],
)
def test_the_theorem_refuses_constants_that_it_does_not_speak_of(
    constants: tuple[float, float, int, int, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Theorem2(*constants)


# The experiment


def test_rows_cover_every_run_and_leave_the_bound_empty_where_there_is_none() -> None:
    # A larger kappa, so that k/k* = 1 and 8 are vacuous and 100 is not; a batch of all rows has no
    # noise, but its oracle promises no sigma either.
    curves, summary = run(replace(SMALL, kappa=3.0, batch_sizes=(120,)))
    assert len(summary) == 2 * 3 * 3
    assert len(curves) == len(summary) * 31
    for row in summary:
        assert row.bound_is_vacuous == (row.k_ratio < 100)
        bounded = row.k_ratio == 100 and row.oracle != "minibatch"
        assert (row.holds is None) == (not bounded)
        assert (row.predicted_floor_distance2 is None) == (not bounded)
        assert (row.predicted_floor_gap is None) == (not bounded)
        assert bounded or row.predicted_iterations is None
        assert (row.predicted_factor >= 1.0) == row.bound_is_vacuous
        assert row.stated_floor_gap is None
    for point in curves:
        bounded = point.k_ratio == 100 and point.oracle != "minibatch"
        assert (point.bound_distance2 is None) == (not bounded)
        assert (point.bound_gap is None) == (not bounded)
    assert {(point.k, point.k_star * point.k_ratio) for point in curves} == {
        (1, 1),
        (8, 8),
        (100, 100),
    }


def test_theorem_2_holds_in_the_experiment() -> None:
    curves, summary = run(SMALL)
    judged = [row for row in summary if row.holds is not None]
    assert all(row.holds for row in judged)
    assert {row.k_ratio for row in judged} == {1, 8, 100}
    full = [row for row in summary if row.oracle == "full"]
    assert all(row.violations == 0 for row in full)
    for row in full:
        assert row.iterations_to_tolerance is not None
        assert row.predicted_iterations is None or (
            row.iterations_to_tolerance <= row.predicted_iterations
        )
        assert row.worst_ratio is not None
        assert row.worst_ratio <= row.predicted_factor
    assert all(row.meets_condition == (row.k_ratio == 100) for row in summary)
    noisy = [row for row in summary if row.oracle == "gaussian" and row.k_ratio == 100]
    for row in noisy:
        assert row.stated_floor_distance2 == pytest.approx(2 * 0.25 * 1.25)
        # Dense noise of variance sigma^2 leaves sum_j sigma^2/N / (1 - (1 - lambda_j)^2).
        rest = np.mean(0.25 / (1 - (1 - np.geomspace(0.8, 1, 100)) ** 2))
        assert row.floor_distance2 == pytest.approx(rest, rel=0.15)
    start = [point.distance2 for point in curves if point.iteration == 0]
    assert all(1.0 <= distance <= 4.0 for distance in start)


def compare(oracle: GradientOracle, gap: Array, distance: Array) -> experiment.SummaryRow:
    """What the experiment says of a run with the given curves, at kappa = 1.25 and k/k* = 100."""
    template = run(replace(SMALL, seeds=(0,), k_ratios=(100,)))[0][0]
    identity = experiment.Run(
        **{field.name: getattr(template, field.name) for field in fields(experiment.Run)}
    )
    variance = oracle.variance(np.zeros((len(gap) - 1, 100)))
    theorem = Theorem2(0.8, 1.0, 1, 100, math.sqrt(variance[0]))
    chosen = replace(SMALL, iterations=len(gap) - 1, floor_iterations=2)
    return experiment._compare(chosen, identity, theorem, gap, distance, variance)


def test_a_run_against_the_theorem_is_reported() -> None:
    instance = random_least_squares(100, 100, 1, 1.25, np.random.default_rng(0))
    full = FullGradient(instance)
    noisy = GaussianNoise(instance, 0.5, np.random.default_rng(0))
    # The factor is 1.1^2 * 0.2 = 0.242.
    fast, slow = 4.0 * 0.1 ** np.arange(40.0), 4.0 * 0.25 ** np.arange(40.0)
    assert compare(full, 0.5 * fast, fast).holds is True
    assert compare(full, 0.5 * slow, slow).holds is False  # every step breaks the bound
    late = compare(full, np.full(40, 2.0), fast)  # the tolerance is not met
    assert (late.holds, late.iterations_to_tolerance, late.violations) == (False, None, 0)
    assert compare(noisy, np.full(40, 0.05), np.full(40, 0.1)).holds is True
    assert compare(noisy, np.full(40, 0.05), np.full(40, 0.7)).holds is False
    assert compare(noisy, np.full(40, 0.7), np.full(40, 0.1)).holds is False


def test_a_summary_by_hand() -> None:
    instance = random_least_squares(100, 100, 1, 1.25, np.random.default_rng(0))
    distance = np.array([4.0, 0.4, 0.12, 0.001, 1e-9, 1e-9, 3e-9])
    row = compare(FullGradient(instance), 0.5 * distance, distance)
    assert row.violations == 3  # ratios 0.3, 1 and 3; the others are below 0.242
    assert row.worst_ratio == pytest.approx(0.3)  # the last two steps start at the floor
    assert row.iterations_to_tolerance == 4
    assert row.predicted_iterations == math.ceil(math.log(0.5e8 * 4.0) / -math.log(0.242))
    assert row.floor_distance2 == pytest.approx(2e-9)
    assert row.floor_gap == pytest.approx(1e-9)
    assert row.final_gap == pytest.approx(1.5e-9)
    # Noise of variance 0.25 allows 1.21 * 0.25 more in each step.
    noisy = GaussianNoise(instance, 0.5, np.random.default_rng(0))
    distance = np.array([4.0, 1.2, 0.6, 0.44])
    assert compare(noisy, distance, distance).violations == 1


def test_runs_are_paired() -> None:
    curves, _ = run(replace(SMALL, sigmas=(0.5, 0.25), seeds=(0,)))
    first = {point.gap for point in curves if point.iteration == 0}
    assert len(first) == 1


def test_csv_is_the_same_for_the_same_seed_and_differs_for_another(tmp_path: Path) -> None:
    for name, seeds in {"a": (0,), "b": (0,), "c": (1,)}.items():
        write(replace(SMALL, seeds=seeds), tmp_path / name)
    for file in ("iht_curves.csv", "iht_summary.csv"):
        once, again, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert once == again
        assert once != other


def test_csv_reads_back_as_the_rows(tmp_path: Path) -> None:
    paths = write(SMALL, tmp_path / "made" / "here")
    assert sorted(paths) == sorted((tmp_path / "made" / "here").iterdir())
    written: list[Sequence[experiment.Run]] = list(run(SMALL))
    for path, rows in zip(paths, written, strict=True):
        with path.open(newline="") as file:
            cells = list(csv.DictReader(file))
        assert len(cells) == len(rows)
        for cell, row in zip(cells, rows, strict=True):
            for name, text in cell.items():
                value = getattr(row, name)
                if value is None:
                    assert text == ""
                elif isinstance(value, float):
                    assert float(text) == pytest.approx(value, rel=1e-9)
                else:
                    assert text == str(value)


def test_a_failed_write_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "iht_curves.csv").write_text("old")

    def fail(value: object) -> object:
        raise OSError("disk full")

    monkeypatch.setattr(experiment, "_cell", fail)
    with pytest.raises(OSError, match="disk full"):
        write(replace(SMALL, seeds=(0,)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["iht_curves.csv"]
    assert (tmp_path / "iht_curves.csv").read_text() == "old"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k_star": 0}, "k_star = 0"),
        ({"n": 0}, "n = 0"),
        ({"m": 99}, "m = 99"),
        ({"kappa": 0.9}, "kappa = 0.9"),
        ({"k_ratios": (1, 101)}, "k_ratio = 101: expected 1 <= k_ratio <= 100"),
        ({"k_ratios": (0,)}, "k_ratio = 0"),
        ({"sigmas": (0.0,)}, "sigma = 0"),
        ({"batch_sizes": (121,)}, "batch_size = 121"),
        ({"seeds": (-1,)}, "seed = -1"),
        ({"floor_iterations": 31}, "floor_iterations = 31"),
        ({"gap_tolerance": 0.0}, "gap_tolerance"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_command_runs_what_its_options_say(tmp_path: Path) -> None:
    options = "--n 60 --m 80 --k-star 2 --k-ratio 1 --k-ratio 30 --kappa 2 --sigma 0.5 "
    options += "--batch-size 40 --batch-size 80 --seeds 2 --iterations 9 --floor-iterations 3"
    result = CliRunner().invoke(iht_command, [*options.split(), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    with (tmp_path / "iht_summary.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 2 * 2 * 4

    def values(name: str) -> set[str]:
        return {cell[name] for cell in cells}

    assert values("n") == {"60"}
    assert values("m") == {"80"}
    assert values("k") == {"2", "60"}
    assert values("kappa") == {"2"}
    assert values("seed") == {"0", "1"}
    assert values("iterations") == {"9"}
    assert values("batch_size") == {"", "40", "80"}
    assert {cell["sigma"] for cell in cells if cell["oracle"] == "gaussian"} == {"0.5"}


def test_command_defaults_follow_n(tmp_path: Path) -> None:
    options = ["--n", "40", "--k-ratio", "1", "--seeds", "1", "--out", str(tmp_path)]
    assert CliRunner().invoke(iht_command, options).exit_code == 0
    with (tmp_path / "iht_summary.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert {cell["m"] for cell in cells} == {"40"}
    assert {cell["batch_size"] for cell in cells} == {"", "10"}


def test_command_refuses_impossible_settings_with_status_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(iht_command, ["--k-ratio", "9999", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "k_ratio = 9999: expected 1 <= k_ratio <= 300" in result.output


def test_command_says_that_a_run_diverged(tmp_path: Path) -> None:
    options = "--n 40 --k-star 1 --k-ratio 40 --batch-size 1 --iterations 2000 --seeds 1"
    result = CliRunner().invoke(iht_command, [*options.split(), "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "diverged" in result.output
    assert not list(tmp_path.iterdir())


def test_importing_the_experiment_is_cheap() -> None:
    code = "import sys, acdc.theory.experiment as _; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "pandas", "matplotlib", "scipy"} & set(loaded)
