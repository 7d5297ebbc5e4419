"""What the theorems predict: by hand, by brute force, and against steps that are really taken."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from tests.theory.support import generator
from theory.iht import hard_threshold, iht, iht_step, on_support, trace
from theory.noise import gaussian
from theory.problems.base import sparse_vectors
from theory.problems.quadratic import diagonal_quadratics, rotated_quadratics
from theory.rates import (
    Theorem1,
    Theorem2,
    corollary1_floor,
    expansion,
    lemma1_factor,
    theorem3,
    trivial_gap,
)

# Lemma 1


@given(data=st.data())
def test_lemma_1(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 7), label="n")
    k_star = data.draw(st.integers(0, n - 1), label="k*")
    k = data.draw(st.integers(k_star, n), label="k")
    numbers = st.floats(-100.0, 100.0, width=16)
    x = data.draw(hnp.arrays(np.float64, n, elements=numbers), label="x")

    def least(size: int) -> float:
        supports = itertools.combinations(range(n), n - size)
        return min(float(np.sum(x[list(rest)] ** 2)) for rest in supports)

    error = float((hard_threshold(torch.tensor(x), k) - torch.tensor(x)).square().sum())
    assert error == pytest.approx(least(k), rel=1e-12)
    # The nearest k*-sparse vector is the strictest test of the bound.
    assert error <= lemma1_factor(n, k, k_star) * least(k_star) * (1 + 1e-12)
    # Equal magnitudes give equality.
    assert lemma1_factor(n, k, k_star) * (n - k_star) == pytest.approx(n - k)


@pytest.mark.parametrize(("k", "k_star"), [(1, 2), (5, 2), (4, 4), (2, -1)])
def test_lemma_1_is_about_no_other_sizes(k: int, k_star: int) -> None:
    with pytest.raises(ValueError, match=f"k_star = {k_star}, k = {k}"):
        lemma1_factor(4, k, k_star)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), k_star=st.integers(1, 4), more=st.integers(0, 8))
def test_thresholding_enlarges_by_the_expansion_at_most(seed: int, k_star: int, more: int) -> None:
    k, n = k_star + more, 16
    sparse = sparse_vectors(1, n, k_star, generator(seed))
    offset = torch.randn((200, n), dtype=torch.float64, generator=generator(seed + 1))
    scale = torch.logspace(-2, 1, 200, dtype=torch.float64).unsqueeze(-1)
    kept = hard_threshold(sparse + scale * offset, k)
    ratio = (kept - sparse).square().sum(-1) / (scale * offset).square().sum(-1)
    bound = expansion(torch.tensor(float(k_star)), torch.tensor(float(k)))
    assert bool((ratio <= bound * (1 + 1e-12)).all())


# Theorem 2


def draw_quadratic(kind: str, kappa: float, n: int, k_star: int, seed: int) -> Any:
    draw: Callable[..., Any] = rotated_quadratics if kind == "rotated" else diagonal_quadratics
    return draw([kappa], n, k_star, generator(seed))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["rotated", "diagonal"]),
    k=st.sampled_from([2, 3, 5, 9, 24]),
    kappa=st.sampled_from([1.0, 1.05, 2.0, 10.0, 100.0]),
)
def test_no_step_without_noise_breaks_the_bound_of_theorem_2(
    seed: int, kind: str, k: int, kappa: float
) -> None:
    problem = draw_quadratic(kind, kappa, 24, 2, seed)
    theorem = Theorem2(problem.alpha, problem.beta, 2, k)
    # From far, from near, and from points that share the minimiser's support.
    directions = sparse_vectors(30, 24, k, generator(seed + 1))
    scale = torch.logspace(-3, 2, 30, dtype=torch.float64).unsqueeze(-1)
    start = hard_threshold(problem.minimiser + scale * directions, k)
    start = torch.cat([start, (scale * directions).unsqueeze(0)], 1)
    found = iht(
        problem.gradient,
        start,
        k,
        1.0 / problem.beta,
        15,
        lambda theta: {"d": (theta - problem.minimiser).square().sum(-1)},
    ).watched["d"]
    rounding = 1e-24 * (1 + found[0])
    assert bool((found[1:] <= theorem.step_bound(found[:-1]) * (1 + 1e-9) + rounding).all())
    bound = theorem.distance2_bound(found[0], 15)
    assert bound.shape == found.shape
    assert bool((found <= bound * (1 + 1e-8) + 20 * rounding).all())


@pytest.mark.parametrize("k", [2, 6, 16])
def test_a_step_with_noise_obeys_the_bound_in_the_mean(k: int) -> None:
    problem = rotated_quadratics([2.0], 16, 2, generator(3))
    draws, sigma = 20_000, 2.0
    theorem = Theorem2(problem.alpha, problem.beta, 2, k, sigma)
    start = hard_threshold(problem.minimiser + 0.1 * sparse_vectors(1, 16, k, generator(4)), k)
    noisy = gaussian(problem.gradient, sigma, generator(5))
    found = iht(noisy, start.expand(1, draws, 16), k, 1.0 / problem.beta, 1, lambda theta: {}).last
    after = (found - problem.minimiser).square().sum(-1)
    before = (start - problem.minimiser).square().sum(-1)
    margin = 5 * after.std() / math.sqrt(draws)
    assert after.mean() + margin <= theorem.step_bound(before).item()
    if k == 16:  # Without its noise term the bound would be wrong.
        quiet = Theorem2(problem.alpha, problem.beta, 2, k)
        assert after.mean() - margin > quiet.step_bound(before).item()


def test_theorem_2_by_hand() -> None:
    # sqrt(k*/k) = 1/4: expansion 25/16, factor 25/16 * 1/2; floor (25/16 * 4) / (1 - 25/32).
    theorem = Theorem2(alpha=0.5, beta=1.0, k_star=2, k=32, sigma=2.0)
    assert expansion(theorem.k_star, theorem.k).item() == pytest.approx(25 / 16)
    assert theorem.factor.item() == pytest.approx(0.78125)
    assert theorem.enough.item() == 64 * 2 * 2**2
    assert not theorem.meets_condition
    assert theorem.stated_distance2_floor.item() == pytest.approx(16.0)
    assert theorem.stated_gap_floor.item() == pytest.approx(8.0)
    assert theorem.step_bound(torch.tensor(8.0)).item() == pytest.approx(12.5)
    bounds = theorem.distance2_bound(torch.tensor(8.0), 2)
    assert bounds.tolist() == pytest.approx([8.0, 12.5, 16.015625])
    # Another beta: lengths scale by 1/beta.
    scaled = Theorem2(alpha=2.0, beta=4.0, k_star=2, k=32, sigma=2.0)
    assert scaled.factor.item() == pytest.approx(theorem.factor.item())
    for name, power in (("stated_distance2_floor", 2), ("stated_gap_floor", 1)):
        expected = getattr(theorem, name).item() / 4.0**power
        assert getattr(scaled, name).item() == pytest.approx(expected)
    assert scaled.step_bound(torch.tensor(0.5)).item() == pytest.approx(12.5 / 16)


def test_a_factor_of_one_or_more_is_vacuous() -> None:
    # (1 + sqrt(1/k))^2 / 2 < 1 iff k > 1 / (sqrt(2) - 1)^2 = 5.83.
    theorem = Theorem2(0.5, 1.0, 1, torch.tensor([1, 5, 6, 100]), sigma=0.1)
    assert (theorem.factor >= 1.0).tolist() == [True, True, False, False]


@given(kappa=st.floats(1.0, 1e3), k_star=st.integers(1, 50), sigma=st.floats(1e-3, 1e3))
def test_the_condition_implies_the_stated_floor(kappa: float, k_star: int, sigma: float) -> None:
    for more in (1.0, 9.0):
        k = math.ceil(64 * k_star * kappa**2 * more * (1 + 1e-9))
        theorem = Theorem2(1.0 / kappa, 1.0, k_star, k, sigma)
        assert theorem.meets_condition
        assert theorem.factor < 1.0
        stated = theorem.stated_distance2_floor
        assert theorem.step_bound(stated).item() <= stated.item()
        # f - f* <= beta D / 2.
        assert stated.item() / 2 <= theorem.stated_gap_floor.item() * (1 + 1e-12)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ((0.0, 1.0, 1, 1, 0.0), "alpha"), ((2.0, 1.0, 1, 1, 0.0), "alpha"),
        ((1.0, math.inf, 1, 1, 0.0), "alpha"), ((math.nan, 1.0, 1, 1, 0.0), "alpha"),
        ((1.0, 1.0, 2, 1, 0.0), "k_star"), ((1.0, 1.0, 0, 1, 0.0), "k_star"),
        ((1.0, 1.0, 1, 1, -1.0), "sigma"), ((1.0, 1.0, 1, 1, math.nan), "sigma"),
        ((torch.tensor([0.5, 2.0]), 1.0, 1, 1, 0.0), "alpha")
    ],
)  # fmt: skip
def test_theorem_2_refuses_other_constants(constants: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} = .*: expected"):
        Theorem2(*constants)


# Theorem 1


def test_theorem_1_by_hand() -> None:
    theorem = Theorem1(alpha=0.5, beta=2.0, k_star=3)
    assert theorem.enough.item() == 160 * 3 * 16
    assert theorem.enough_with_noise.item() == 576 * 3 * 16
    assert theorem.factor.item() == 1 - 1 / 32
    assert theorem.floor(0.5).item() == 8.0
    assert theorem.floor(torch.tensor([0.0, 1.0])).tolist() == [0.0, 32.0]


@given(alpha=st.floats(1e-3, 1e3), kappa=st.floats(1.0, 1e3), sigma=st.floats(0.0, 1e3))
def test_the_step_of_theorem_1_implies_its_floor(alpha: float, kappa: float, sigma: float) -> None:
    theorem = Theorem1(alpha, alpha * kappa, 1)
    fixed = 0.51 * sigma**2 / (alpha * kappa) / (alpha / (16 * alpha * kappa))
    floor = theorem.floor(sigma).item()
    assert fixed <= floor
    step = (1 - alpha / (16 * alpha * kappa)) * floor + 0.51 * sigma**2 / (alpha * kappa)
    assert step <= floor * (1 + 1e-12)


@pytest.mark.parametrize("constants", [(0.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0), (-1.0, 1, 1)])
def test_theorem_1_refuses_other_constants(constants: Any) -> None:
    with pytest.raises(ValueError, match="expected alpha > 0, beta > 0 and k_star >= 1"):
        Theorem1(*constants)


# Theorem 3 and Corollary 1


def test_theorem_3_by_hand() -> None:
    # 2*3*10/5 + 2*9*4*0.25 + 2*0.01.
    found = theorem3(beta=3.0, k=4, largest=0.5, epsilon=0.1, drop=10.0, iterations=5)
    assert found.item() == pytest.approx(12 + 18 + 0.02)
    drops = torch.tensor([0.0, 10.0], dtype=torch.float64)
    many = theorem3(3.0, 4, 0.5, 0.1, drops, torch.tensor([7, 5]))
    assert many.tolist() == pytest.approx([18.02, 30.02])


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), kappa=st.sampled_from([1.0, 5.0]), k=st.integers(1, 20))
def test_gradients_along_optimised_iht_obey_theorem_3(seed: int, kappa: float, k: int) -> None:
    problem = rotated_quadratics([kappa], 20, 20, generator(seed))
    threshold = iht_step(problem.gradient, k, 1.0 / problem.beta)

    def step(theta: Tensor) -> Tensor:
        return on_support(problem.gradient, threshold(theta), 1.0 / problem.beta, 60)

    start = sparse_vectors(4, 20, k, generator(seed + 1)).unsqueeze(0)
    found = trace(
        step,
        on_support(problem.gradient, start, 1.0 / problem.beta, 60),
        12,
        lambda theta: {
            "gap": problem.gap(theta),
            "largest": theta.abs().amax(-1),
            "gradient": problem.gradient(theta).abs().amax(-1),
            "inside": torch.where(theta != 0, problem.gradient(theta), 0.0).norm(dim=-1),
        },
    ).watched
    epsilon = found["inside"].amax(0)
    assert bool((epsilon < 1e-4).all())
    drop = found["gap"][0] - found["gap"][-1]
    bound = theorem3(problem.beta, k, found["largest"].amax(0), epsilon, drop, 12)
    assert bool((found["gradient"][:12].square().mean(0) <= bound).all())
    # Without the terms of k and B it would be wrong: entries outside the support stay behind.
    if k < 10:
        without = theorem3(problem.beta, k, 0.0, epsilon, drop, 12)
        assert bool((found["gradient"][:12].square().mean(0) > without).any())


def test_corollary_1_by_hand() -> None:
    alpha, beta = torch.tensor(0.5), torch.tensor(2.0)
    floor = corollary1_floor(alpha, beta, 3.0).item()
    assert floor == pytest.approx(4 * 9 / 0.5)
    assert trivial_gap(alpha, 3.0).item() == pytest.approx(2 * 9 / 0.5)
    # The floor is that of Theorem 1 for sigma = beta eta L.
    assert floor == pytest.approx(Theorem1(0.5, 2.0, 1).floor(1.5).item())
