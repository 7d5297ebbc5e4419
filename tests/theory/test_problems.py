"""The families of problems against brute force, numpy and formulas written out again."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.theory.support import Array, generator, normal, trap_design
from theory.problems import Problem
from theory.problems.base import sparse_vectors
from theory.problems.quadratic import diagonal_quadratics, rotated_quadratics
from theory.problems.regression import LeastSquares, gaussian_least_squares, restricted_constants
from theory.problems.sine import cpl_constant, sine_squares
from theory.problems.traps import OneCoordinate, Trap

FAMILIES: dict[str, tuple[Problem, int]] = {
    "F1": (rotated_quadratics([1.0, 3.0, 50.0], 8, 3, generator(0)), 3),
    "F1 diagonal": (diagonal_quadratics([1.0, 3.0, 50.0], 8, 3, generator(1)), 3),
    "F1'": (gaussian_least_squares(3, 8, 12, 3, generator(2)), 3),
    "F1' with error": (gaussian_least_squares(3, 8, 12, 3, generator(3), error=0.5), 3),
    "F1' wide": (gaussian_least_squares(3, 8, 5, 3, generator(4)), 3),
    "F2": (sine_squares(3, 1.2, 0.4, 8, 3, generator(5)), 3),
    "F2 convex": (sine_squares(3, 0.0, 0.4, 8, 3, generator(6)), 3),
    "F3": (Trap(rho=0.7, w=0.5, k=7), 1),
    "F3 copies": (Trap(rho=0.7, w=0.5, k=3, copies=2), 2),
    "F4": (OneCoordinate(8), 1),
}
"""Problems in N = 8 and the non-zeros of their minimisers."""

EVERY = pytest.mark.parametrize("name", FAMILIES)


def losses(problem: Any, index: int, name: str) -> Callable[[Array], float]:
    """Return f of one instance from its definition in numpy."""
    minimiser = np.broadcast_to(problem.minimiser.numpy(), (3, 1, 8))[index, 0]
    if name in ("F1", "F1 diagonal"):
        held = problem.hessian[index].numpy()
        hessian = np.diag(held[0]) if name == "F1 diagonal" else held
        return lambda x: 0.5 * (x - minimiser) @ hessian @ (x - minimiser)
    if name.startswith("F1'"):
        design, targets = problem.design[index].numpy(), problem.targets[index, 0].numpy()
        return lambda x: float(np.mean((design @ x - targets) ** 2)) / 2
    if name.startswith("F2"):
        design = np.hstack([np.eye(3), problem.tail[index].numpy()])
        b = design @ minimiser
        return lambda x: sum(r**2 + problem.c * math.sin(r) ** 2 for r in design @ x - b)
    if name.startswith("F3"):
        design = trap_design(0.7, 0.5, problem.k, problem.copies)
        b = np.tile(np.eye(problem.k + 1)[0], problem.copies)
        return lambda x: 0.5 * float(np.sum((design @ x - b) ** 2))
    return lambda x: 0.5 * (x[0] - 1.0) ** 2


@EVERY
def test_gap_is_the_loss_above_that_of_the_minimiser(name: str) -> None:
    problem, _ = FAMILIES[name]
    thetas = 2.0 * normal(10, 3, 4, 8)
    gaps = problem.gap(thetas)
    assert gaps.shape == (3, 4)
    for index in range(3):
        loss = losses(problem, index, name)
        least = loss(np.broadcast_to(problem.minimiser.numpy(), (3, 1, 8))[index, 0])
        expected = [loss(theta) - least for theta in thetas[index].numpy()]
        np.testing.assert_allclose(gaps[index], expected, rtol=1e-10, atol=1e-13)


@EVERY
def test_gradient_is_that_of_the_gap(name: str) -> None:
    problem, _ = FAMILIES[name]
    theta = (2.0 * normal(11, 3, 4, 8)).requires_grad_()
    problem.gap(theta).sum().backward()
    found = problem.gradient(theta.detach())
    np.testing.assert_allclose(found, theta.grad, rtol=1e-10, atol=1e-12)


@EVERY
def test_minimiser_is_sparse_and_stationary_and_nothing_is_lower(name: str) -> None:
    problem, k_star = FAMILIES[name]
    minimiser = problem.minimiser
    assert bool(((minimiser != 0).sum(-1) == k_star).all())
    assert bool((problem.gap(minimiser) == 0).all())
    assert bool((problem.gradient(minimiser) == 0).all())
    for scale in (1e-3, 0.1, 1.0, 10.0):
        assert bool((problem.gap(minimiser + scale * normal(12, 3, 50, 8)) >= 0).all())


def test_sparse_vectors_have_every_place_sign_and_magnitude_alike() -> None:
    vectors = sparse_vectors(20_000, 10, 3, generator(0))
    places = (vectors != 0).double().mean(0).numpy()
    np.testing.assert_allclose(places, 0.3, atol=5 * math.sqrt(0.3 * 0.7 / 20_000))
    entries = vectors[vectors != 0].numpy()
    assert scipy.stats.binomtest(int((entries > 0).sum()), len(entries)).pvalue > 1e-4
    assert scipy.stats.kstest(np.abs(entries) - 1, "uniform").pvalue > 1e-4


# F1


KAPPAS = (1.0, 2.0, 30.0)


@pytest.mark.parametrize("kind", ["rotated", "diagonal"])
@pytest.mark.parametrize("n", [2, 7])
def test_spectrum_is_log_spaced_between_alpha_and_beta(kind: str, n: int) -> None:
    draw = rotated_quadratics if kind == "rotated" else diagonal_quadratics
    problem = draw(KAPPAS, n, 2, generator(3))
    for index, kappa in enumerate(KAPPAS):
        held = problem.hessian[index].numpy()
        hessian = held if kind == "rotated" else np.diag(held[0])
        np.testing.assert_allclose(hessian, hessian.T, atol=1e-15)
        found = np.linalg.eigvalsh(hessian)
        np.testing.assert_allclose(found, np.geomspace(1 / kappa, 1, n), rtol=1e-10)
        assert problem.alpha[index].item() == pytest.approx(1 / kappa, rel=1e-15)
        assert problem.beta[index].item() == 1.0


def test_a_flat_diagonal_has_the_least_curvature_where_the_minimiser_is() -> None:
    flat = diagonal_quadratics(KAPPAS, 7, 2, generator(6), flat=True)
    plain = diagonal_quadratics(KAPPAS, 7, 2, generator(6))
    on = flat.minimiser != 0
    assert torch.equal(flat.hessian[on], flat.alpha.repeat_interleave(2))
    assert torch.equal(flat.hessian[~on], plain.hessian[~on])
    assert torch.equal(flat.minimiser, plain.minimiser)
    assert bool((flat.hessian <= flat.beta.unsqueeze(-1)).all())


def test_eigenvectors_and_diagonal_orders_favour_no_coordinate() -> None:
    # The mean of H over draws is that of the eigenvalues times the identity.
    for draw in (rotated_quadratics, diagonal_quadratics):
        held = draw([9.0] * 4000, 3, 1, generator(5)).hessian
        mean = held.mean(0).numpy() if draw is rotated_quadratics else np.diag(held.mean(0)[0])
        np.testing.assert_allclose(mean, np.eye(3) * np.mean([1 / 9, 1 / 3, 1]), atol=0.03)


# F1'


@pytest.mark.parametrize("name", ["F1'", "F1' with error", "F1' wide"])
def test_alpha_and_beta_are_squared_singular_values(name: str) -> None:
    problem: Any = FAMILIES[name][0]
    rows = problem.design.shape[-2]
    for index in range(3):
        values = np.linalg.svd(problem.design[index].numpy(), compute_uv=False) ** 2 / rows
        assert problem.beta[index].item() == pytest.approx(values[0])
        least = values[-1] if rows >= 8 else 0.0
        assert problem.alpha[index].item() == pytest.approx(least)


def test_error_is_orthogonal_to_the_columns_and_of_the_size_asked_for() -> None:
    problem: Any = FAMILIES["F1' with error"][0]
    design, error = problem.design.numpy(), problem.error.numpy()
    assert np.abs(error @ design).max() < 1e-12
    np.testing.assert_allclose(np.sqrt(np.mean(error**2, axis=-1)), 0.5, rtol=1e-12)
    # So theta* is what numpy fits.
    for index in range(3):
        fit = np.linalg.lstsq(design[index], problem.targets[index, 0].numpy(), rcond=None)[0]
        np.testing.assert_allclose(fit, problem.minimiser[index, 0], atol=1e-12)


def rows_problem() -> LeastSquares:
    return gaussian_least_squares(1, 3, 5, 2, generator(7), error=0.8)


def row_gradients(problem: LeastSquares, theta: Array) -> Array:
    """Return the gradient of (a_i theta - b_i)^2 / 2 for each row, (m, N)."""
    design, targets = problem.design[0].numpy(), problem.targets[0, 0].numpy()
    return np.stack([a * (a @ theta - b) for a, b in zip(design, targets, strict=True)])


@pytest.mark.parametrize("size", [1, 2])
def test_a_minibatch_takes_every_choice_of_rows_equally_often(size: int) -> None:
    problem, theta, draws = rows_problem(), normal(8, 3), 20_000
    rows = row_gradients(problem, theta.numpy())
    # Every ordered choice with replacement; choices of the same rows give the same gradient.
    choices = list(itertools.product(range(5), repeat=size))
    means = np.stack([rows[list(choice)].mean(0) for choice in choices])
    full = problem.gradient(theta.expand(1, 1, 3))[0, 0].numpy()
    np.testing.assert_allclose(means.mean(0), full, atol=1e-12)
    variance = np.mean(np.sum((means - full) ** 2, axis=1))
    stated = problem.row_variance(theta.expand(1, 1, 3)).item()
    assert variance == pytest.approx(stated / size, rel=1e-12)
    drawn = problem.minibatch(size, generator(9))(theta.expand(1, draws, 3))[0].numpy()
    distances = np.abs(drawn[:, None] - means).max(-1)
    assert distances.min(1).max() < 1e-12
    kinds = [tuple(sorted(choice)) for choice in choices]
    first = [kinds.index(kind) for kind in kinds]
    counts = np.bincount(np.array(first)[distances.argmin(1)], minlength=len(kinds))
    expected = np.bincount(first, minlength=len(kinds)) * draws / len(kinds)
    there = expected > 0
    assert scipy.stats.chisquare(counts[there], expected[there]).pvalue > 1e-4


def test_minibatches_are_drawn_afresh_and_for_each_trial() -> None:
    problem = rows_problem()
    theta = normal(16, 3).expand(1, 40, 3)
    oracle = problem.minibatch(1, generator(17))
    once, again = oracle(theta), oracle(theta)
    assert not torch.equal(once, again)
    assert len(np.unique(once[0].numpy().round(9), axis=0)) == 5
    assert torch.equal(problem.minibatch(1, generator(17))(theta), once)


def test_row_variance_vanishes_at_the_minimiser_only_without_error() -> None:
    exact: Any = FAMILIES["F1'"][0]
    noisy: Any = FAMILIES["F1' with error"][0]
    assert bool((exact.row_variance(exact.minimiser) == 0).all())
    assert bool((noisy.row_variance(noisy.minimiser) > 0).all())
    one_row = gaussian_least_squares(1, 3, 1, 2, generator(7))
    assert bool((one_row.row_variance(normal(8, 1, 9, 3)) < 1e-12).all())
    assert bool((one_row.row_variance(normal(8, 1, 9, 3)) >= 0).all())


def extremes(design: Array, size: int) -> tuple[float, float]:
    """Return the restricted constants by trying all supports."""
    gram = design.T @ design / len(design)
    values = [
        np.linalg.eigvalsh(gram[np.ix_(support, support)])
        for support in itertools.combinations(range(len(gram)), size)
    ]
    return min(value[0] for value in values), max(value[-1] for value in values)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 8),
    m=st.integers(1, 10),
    supports=st.integers(1, 4),
    data=st.data(),
)
def test_found_restricted_constants_are_never_beyond_the_true_ones(
    seed: int, n: int, m: int, supports: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, n))
    design = normal(seed, 2, m, n)
    alphas, betas = restricted_constants(design, size, supports, generator(seed))
    for index in range(2):
        alpha, beta = extremes(design[index].numpy(), size)
        assert alphas[index].item() >= alpha - 1e-9
        assert betas[index].item() <= beta + 1e-9
        if size == n:  # there is one support
            assert alphas[index].item() == pytest.approx(alpha, abs=1e-9)
            assert betas[index].item() == pytest.approx(beta)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_with_all_supports_drawn_restricted_constants_are_the_true_ones(size: int) -> None:
    design = normal(20, 3, 9, 5)
    found = restricted_constants(design, size, 400, generator(21))
    truth = [extremes(each.numpy(), size) for each in design]
    np.testing.assert_allclose(torch.stack(found, -1), truth, rtol=1e-10)


def test_exchanges_of_columns_find_more_than_the_random_supports() -> None:
    design, size = normal(22, 12, 20, 12), 4
    found = restricted_constants(design, size, 10, generator(23))
    truth = [extremes(each.numpy(), size) for each in design]
    # Ten of the 495 supports, in the same order as they are drawn.
    draws = torch.rand((12, 10, 12), dtype=torch.float64, generator=generator(23))
    chosen = draws.argsort(-1)[..., :size].numpy()
    random = []
    for each, supports in zip(design.numpy(), chosen, strict=True):
        values = [np.linalg.eigvalsh(each[:, s].T @ each[:, s] / 20) for s in supports]
        random.append((min(v[0] for v in values), max(v[-1] for v in values)))
    shares = []
    for column, values in enumerate(found):
        true, start = (np.array([row[column] for row in rows]) for rows in (truth, random))
        shares.append(np.mean(np.abs(values.numpy() - true)) / np.mean(np.abs(start - true)))
    assert max(shares) < 0.5


# F2


@pytest.mark.parametrize("c", [0.0, 0.3, 0.5, 1.0, 1.2, 2.0, 3.0, 4.5])
def test_cpl_constant_is_the_least_ratio_on_a_fine_grid(c: float) -> None:
    x = np.linspace(1e-4, 100.0, 2_000_001)
    ratio = (2 * x + c * np.sin(2 * x)) ** 2 / (x**2 + c * np.sin(x) ** 2)
    assert cpl_constant(c) == pytest.approx(2 * ratio.min(), rel=1e-4)
    assert cpl_constant(c) <= 2 * ratio.min() * (1 + 1e-12)


@pytest.mark.parametrize("c", [-0.1, 4.7, 10.0, math.inf, math.nan])
def test_cpl_constant_refuses_a_phi_with_other_stationary_points(c: float) -> None:
    with pytest.raises(ValueError, match=f"c = {c}"):
        cpl_constant(c)


def worst_residual(c: float) -> float:
    x = np.linspace(1e-3, 20.0, 400_001)
    ratio = (2 * x + c * np.sin(2 * x)) ** 2 / (x**2 + c * np.sin(x) ** 2)
    return float(x[ratio.argmin()])


@pytest.mark.parametrize("c", [0.0, 0.5, 1.2, 2.0, 4.0])
def test_the_largest_gradient_entries_obey_cpl_and_the_constant_is_the_best(c: float) -> None:
    problem = sine_squares(3, c, 0.3, 10, 4, generator(30))
    random = [scale * normal(31, 3, 200, 10) for scale in (0.01, 1.0, 3.0, 30.0)]
    # Every residual where phi'^2/phi is least, with every sign.
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    worst = problem.minimiser.repeat(1, 16, 1)
    worst[..., :4] += worst_residual(c) * signs
    for theta in (*random, worst):
        largest = problem.gradient(theta).square().sort(-1).values[..., -4:].sum(-1)
        bound = problem.alpha / 2 * problem.gap(theta)
        assert bool((largest >= bound * (1 - 1e-12)).all())
    firsts = problem.gradient(worst)[..., :4].square().sum(-1)
    np.testing.assert_allclose(firsts, problem.alpha / 2 * problem.gap(worst), rtol=1e-6)


@pytest.mark.parametrize("c", [0.0, 0.5, 1.2, 4.0])
def test_sine_squares_are_beta_smooth_and_beta_is_the_least(c: float) -> None:
    problem = sine_squares(3, c, 0.8, 10, 4, generator(32))

    def remainder(theta: Tensor, d: Tensor) -> Tensor:
        slope = (problem.gradient(theta) * d).sum(-1)
        return problem.gap(theta + d) - problem.gap(theta) - slope

    for scale in (0.01, 1.0, 10.0):
        theta, d = scale * normal(33, 3, 300, 10), scale * normal(34, 3, 300, 10)
        bound = problem.beta / 2 * d.square().sum(-1)
        assert bool((remainder(theta, d) <= bound * (1 + 1e-9)).all())
    # At the minimiser every phi'' is 2 + 2c, and A stretches its first singular vector most.
    design = torch.cat([torch.eye(4).expand(3, 4, 4), problem.tail], -1)
    steepest = 1e-4 * torch.linalg.svd(design).Vh[:, :1]
    tight = remainder(problem.minimiser, steepest) / steepest.square().sum(-1) * 2
    np.testing.assert_allclose(tight, problem.beta, rtol=1e-4)


def test_sine_squares_are_not_convex_above_one() -> None:
    def second(c: float) -> float:
        problem = sine_squares(1, c, 0.0, 5, 1, generator(35))
        at = problem.minimiser.clone()
        at[..., 0] += math.pi / 2
        h = torch.zeros_like(at)
        h[..., 0] = 1e-3
        change = problem.gap(at + h) - 2 * problem.gap(at) + problem.gap(at - h)
        return change.item() / 1e-6

    # phi'' = 2 + 2c cos 2x.
    assert [second(c) for c in (0.5, 1.5)] == pytest.approx([1.0, -1.0], abs=1e-3)


def test_columns_beside_the_identity_have_the_scale_asked_for() -> None:
    problem = sine_squares(200, 1.0, 0.6, 50, 5, generator(36))
    assert problem.tail.square().mean().item() == pytest.approx(0.36 / 45, rel=0.05)
    assert bool((sine_squares(2, 1.0, 0.0, 9, 4, generator(37)).tail == 0).all())


# F4


@settings(max_examples=50)
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3))
def test_one_coordinate_obeys_cpl_with_four_and_not_with_more(entries: list[float]) -> None:
    problem = OneCoordinate(3)
    theta = torch.tensor(entries, dtype=torch.float64)
    largest = problem.gradient(theta).square().max().item()
    assert problem.alpha.item() == 4.0
    assert largest >= 4.0 / 2 * problem.gap(theta).item() * (1 - 1e-15)
    if abs(entries[0] - 1) > 1e-6:
        assert largest < 4.0001 / 2 * problem.gap(theta).item()


# What there is no problem for

IMPOSSIBLE: list[tuple[Callable[[], object], str]] = [
    (lambda: rotated_quadratics([2.0, 0.99], 5, 2, generator(0)), "kappas = "),
    (lambda: rotated_quadratics([math.inf], 5, 2, generator(0)), "kappas = "),
    (lambda: rotated_quadratics([math.nan], 5, 2, generator(0)), "kappas = "),
    (lambda: diagonal_quadratics([0.5], 5, 2, generator(0)), "kappas = "),
    (lambda: sparse_vectors(1, 5, 6, generator(0)), "6 non-zeros"),
    (lambda: gaussian_least_squares(1, 5, 0, 2, generator(0)), "m = 0"),
    (lambda: gaussian_least_squares(1, 5, 9, 2, generator(0), -0.1), "error = -0.1"),
    (lambda: gaussian_least_squares(1, 5, 5, 2, generator(0), 0.1), "error = 0.1"),
    (lambda: restricted_constants(normal(0, 1, 4, 3), 0, 5, generator(0)), "size = 0: expected"),
    (lambda: restricted_constants(normal(0, 1, 4, 3), 4, 5, generator(0)), "size = 4: expected"),
    (lambda: sine_squares(1, 1.0, 0.1, 5, 5, generator(0)), "k_star = 5: expected less than n"),
    (lambda: sine_squares(1, -1.0, 0.1, 5, 2, generator(0)), "c = -1.0: expected"),
    (lambda: sine_squares(1, 1.0, 0.1, 5, 0, generator(0)), "0 non-zeros"),
    (lambda: Trap(rho=0.0, w=0.5, k=3), "rho = 0.0"),
    (lambda: Trap(rho=1.0, w=0.0, k=3), "w = 0.0"),
    (lambda: Trap(rho=1.0, w=torch.tensor([1.0, 3.0]), k=3), "w = "),
    (lambda: Trap(rho=1.0, w=0.5, k=0), "k = 0"),
    (lambda: Trap(rho=1.0, w=0.5, k=1, copies=0), "copies = 0"),
]


@pytest.mark.parametrize(("draw", "message"), IMPOSSIBLE)
def test_impossible_problems_are_refused(draw: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
