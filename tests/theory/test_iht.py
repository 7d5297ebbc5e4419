"""Iterative hard thresholding of many trials at once is that of each, written in plain numpy."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from tests.theory.support import Array, generator, head, normal, plain_iht
from theory.iht import Trace, dense_phase, hard_threshold, iht, on_support
from theory.problems.base import Gradient
from theory.problems.quadratic import rotated_quadratics

# T_k


def nearest_by_search(x: Array, k: int) -> Array:
    """Of all supports of size k, in lexicographic order, take the first that is nearest to x."""
    best, kept = -1.0, ()
    for support in itertools.combinations(range(len(x)), k):
        energy = float(np.sum(x[list(support)] ** 2))
        if energy > best:
            best, kept = energy, support
    nearest = np.zeros_like(x)
    nearest[list(kept)] = x[list(kept)]
    return nearest


# Small whole numbers tie often, and their squares add without rounding.
@given(
    x=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.integers(1, 7)),
        elements=st.integers(-3, 3).map(float),
    ),
    data=st.data(),
)
def test_hard_threshold_is_the_nearest_sparse_vector(x: Array, data: st.DataObject) -> None:
    rows, n = x.shape
    counts = data.draw(st.lists(st.integers(0, n), min_size=rows, max_size=rows))
    expected = np.stack([nearest_by_search(row, k) for row, k in zip(x, counts, strict=True)])
    assert np.array_equal(hard_threshold(torch.tensor(x), torch.tensor(counts)), expected)
    for row, k in zip(x, counts, strict=True):
        assert np.array_equal(hard_threshold(torch.tensor(row), k), nearest_by_search(row, k))


def test_hard_threshold_keeps_infinities_ranks_nan_as_one_and_leaves_its_argument_alone() -> None:
    x = torch.tensor([1.0, -torch.inf, 3.0], dtype=torch.float64)
    assert hard_threshold(x, 1).tolist() == [0.0, -torch.inf, 0.0]
    assert x.tolist() == [1.0, -torch.inf, 3.0]
    x[0] = torch.nan
    assert hard_threshold(x, 2).tolist() == [torch.inf, -torch.inf, 0.0]


@pytest.mark.parametrize(
    ("x", "k"),
    [
        ([1.0, 2.0], 3),
        ([1.0, 2.0], -1),
        ([[1.0, 2.0], [3.0, 4.0]], torch.tensor([2, 3])),
        ([[1.0, 2.0], [3.0, 4.0]], torch.tensor([-1, 2])),
    ],
)
def test_hard_threshold_keeps_none_to_all(x: Any, k: Any) -> None:
    with pytest.raises(ValueError, match="k = "):
        hard_threshold(torch.tensor(x), k)


# The iteration


def problems(seed: int, count: int, n: int) -> tuple[Tensor, Tensor]:
    factor = normal(seed, count, n, n)
    hessian = factor.mT @ factor
    hessian = hessian / torch.linalg.matrix_norm(hessian, ord=2)[:, None, None]
    return hessian, normal(seed + 1, count, 1, n)


def quadratic(hessian: Tensor, centre: Tensor) -> Gradient:
    return lambda theta: (theta - centre) @ hessian


def entries(theta: Tensor) -> Mapping[str, Tensor]:
    """Watch every entry, so that the whole path is seen."""
    return {str(i): theta[..., i] for i in range(theta.shape[-1])}


def path(trace: Trace) -> Tensor:
    """All iterates of a trace that watched the entries, (iterations + 1, ..., N)."""
    return torch.stack(list(trace.watched.values()), -1)


def test_iht_of_a_batch_is_the_written_recursion_of_each_trial() -> None:
    count, trials, n, steps = 3, 4, 9, 12
    hessian, centre = problems(0, count, n)
    start = normal(2, count, trials, n)
    # By problem, by trial, and by both.
    k = torch.tensor([[1, 4, 9, 0]] * 2 + [[3, 2, 5, 9]])
    eta = torch.tensor([[0.1], [1.0], [1.7]], dtype=torch.float64)
    found = iht(quadratic(hessian, centre), start, k, eta, steps, entries)
    assert not found.diverged.any()
    assert torch.equal(path(found)[-1], found.last)
    for p, t in itertools.product(range(count), range(trials)):
        matrix, point = hessian[p].numpy(), centre[p, 0].numpy()
        expected = plain_iht(
            lambda theta, matrix=matrix, point=point: matrix @ (theta - point),
            start[p, t].numpy(),
            int(k[p, t]),
            float(eta[p, 0]),
            steps,
        )
        np.testing.assert_allclose(path(found)[:, p, t], expected, rtol=1e-10, atol=1e-12)


# Divergence


def test_a_diverged_trial_stays_where_it_was_and_the_others_go_on_unchanged() -> None:
    start = torch.full((3, 4), 2.0, dtype=torch.float64)
    # Multiplied by 0.5, by -10 and by -0.5 in each step: 2e150 comes after 150 steps.
    eta = torch.tensor([0.5, 11.0, 1.5], dtype=torch.float64)
    found = iht(lambda theta: theta, start, 4, eta, 170, entries)
    assert found.diverged.tolist() == [False, True, False]
    alone = iht(lambda theta: theta, start[::2], 4, eta[::2], 170, entries)
    assert torch.equal(path(found)[:, ::2], path(alone))
    assert torch.equal(found.last[::2], alone.last)
    assert found.last[1].tolist() == pytest.approx([-2e149] * 4)
    assert bool(path(found)[:150, 1].isfinite().all())
    assert bool((path(found)[150:, 1] == torch.inf).all())
    # Until then it is the plain recursion.
    expected = 2.0 * (-10.0) ** np.arange(150)
    np.testing.assert_allclose(path(found)[:150, 1, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf, 1e200])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_entry_that_is_no_number_is_a_divergence(wrong: float, place: int) -> None:
    hessian, centre = problems(5, 1, 5)
    plain = quadratic(hessian, centre)
    calls = itertools.count(1)

    def broken(theta: Tensor) -> Tensor:
        found = plain(theta).clone()
        if next(calls) == 3:
            found[0, 1, place] = wrong
        return found

    start = normal(6, 1, 3, 5)
    found = iht(broken, start, 1, 0.5, 8, entries)
    healthy = iht(plain, start, 1, 0.5, 8, entries)
    assert found.diverged.tolist() == [[False, True, False]]
    assert torch.equal(path(found)[:, :, [0, 2]], path(healthy)[:, :, [0, 2]])
    assert torch.equal(path(found)[:3, 0, 1], path(healthy)[:3, 0, 1])
    assert bool((path(found)[3:, 0, 1] == torch.inf).all())
    # It does not come back, though its later gradients are sound.
    assert torch.equal(found.last[0, 1], path(healthy)[2, 0, 1])


@pytest.mark.parametrize(
    ("k", "eta", "message"),
    [
        (6, 1.0, "k = 6"), (1, 0.0, "step_size = 0.0"), (1, -1.0, "step_size = -1.0"),
        (1, float("nan"), "step_size = nan"), (1, torch.tensor([1.0, 0.0]), "step_size = ")
    ],
)  # fmt: skip
def test_iht_refuses_impossible_arguments(k: Any, eta: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iht(lambda theta: theta, normal(0, 2, 5), k, eta, 1, entries)


# Phases


def parts_of(seed: int, count: int, n: int) -> tuple[list[Gradient], Array, Array]:
    hessian, centre = problems(seed, count, n)
    gradients = [quadratic(matrix, point) for matrix, point in zip(hessian, centre, strict=True)]
    return gradients, hessian.numpy(), centre[:, 0].numpy()


def test_a_phase_is_its_passes_then_the_threshold_then_its_sparse_steps() -> None:
    gradients, hessians, centres = parts_of(9, 3, 6)
    theta = normal(10, 4, 6)
    k = torch.tensor([1, 3, 6, 0])
    eta = torch.tensor([0.5, 1.0, 2.0, 1.0], dtype=torch.float64)

    def whole(theta: Tensor) -> Tensor:
        return torch.stack([gradient(theta) for gradient in gradients]).mean(0)

    dense = dense_phase(gradients, theta, eta, passes=2)
    found = on_support(whole, hard_threshold(dense, k), 0.25, 3)

    for row in range(4):
        x = theta[row].numpy()
        for _ in range(2):
            for matrix, centre in zip(hessians, centres, strict=True):
                x = x - float(eta[row]) / 6 * matrix @ (x - centre)
        np.testing.assert_allclose(dense[row], x, rtol=1e-12, atol=1e-14)
        x = head(x, int(k[row]))
        kept = x != 0
        for _ in range(3):
            slope = np.mean([m @ (x - c) for m, c in zip(hessians, centres, strict=True)], axis=0)
            x = np.where(kept, x - 0.25 * slope, 0.0)
        np.testing.assert_allclose(found[row], x, rtol=1e-12, atol=1e-14)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    kappa=st.sampled_from([1.0, 4.0, 100.0]),
    k=st.integers(0, 12),
    share=st.floats(0.01, 1.0),
)
def test_sparse_steps_stay_on_the_support_and_never_raise_the_loss(
    seed: int, kappa: float, k: int, share: float
) -> None:
    problem = rotated_quadratics([kappa], 12, 3, generator(seed))
    theta = hard_threshold(normal(seed, 1, 4, 12), k)
    step_size = share / problem.beta
    once = on_support(problem.gradient, theta, step_size, 1)
    twice = on_support(problem.gradient, theta, step_size, 2)
    for moved in (once, twice):
        assert bool((moved[theta == 0] == 0).all())
    slack = 1e-12 * problem.gap(theta)
    assert bool((problem.gap(once) <= problem.gap(theta) + slack).all())
    assert bool((problem.gap(twice) <= problem.gap(once) + slack).all())
    assert torch.equal(on_support(problem.gradient, theta, step_size, 0), theta)
