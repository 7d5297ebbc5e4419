"""The traps F3 against the matrices of their columns."""

import itertools

import numpy as np
import pytest
import torch

from tests.theory.support import trap_design
from theory.iht import iht
from theory.problems.traps import Trap

SIZES = pytest.mark.parametrize(
    ("k", "copies"), [(1, 1), (1, 3), (2, 1), (3, 2), (8, 1), (8, 3), (25, 1)]
)


def traps(k: int, copies: int, count: int = 7) -> Trap:
    """Return every trap of a grid of ``count`` rho and of those w that are below k."""
    shares = [w for w in (0.05, 0.4, 0.9, 2.5, 7.0) if w < k]
    pairs = list(itertools.product(np.geomspace(0.02, 3.0, count), shares))
    rho, w = torch.tensor(pairs, dtype=torch.float64).mT
    return Trap(rho, w, k, copies)


@SIZES
def test_trap_extremes_are_eigenvalues_of_its_columns(k: int, copies: int) -> None:
    batch = traps(k, copies)
    for index, (rho, w) in enumerate(zip(batch.rho.tolist(), batch.w.tolist(), strict=True)):
        design = trap_design(rho, w, k, copies)
        assert len(design) == batch.n
        values = np.linalg.svd(design, compute_uv=False) ** 2
        assert batch.alpha[index].item() == pytest.approx(values[-1], rel=1e-9)
        assert batch.beta[index].item() == pytest.approx(values[0], rel=1e-12)
        assert batch.kappa[index].item() == pytest.approx(values[0] / values[-1], rel=1e-9)


@SIZES
def test_the_bad_point_is_the_least_squares_fit_on_its_support(k: int, copies: int) -> None:
    batch = traps(k, copies)
    for index, (rho, w) in enumerate(zip(batch.rho.tolist(), batch.w.tolist(), strict=True)):
        design = trap_design(rho, w, k, copies)
        target = np.tile(np.eye(k + 1)[0], copies)
        wrong = np.flatnonzero(np.arange(len(design)) % (k + 1))
        expected = np.zeros(len(design))
        expected[wrong] = np.linalg.lstsq(design[:, wrong], target, rcond=None)[0]
        np.testing.assert_allclose(batch.bad_point[index], expected, atol=1e-12)
        np.testing.assert_allclose(design @ batch.minimiser[index].numpy(), target, atol=1e-12)
        loss = float(np.sum((design @ expected - target) ** 2)) / 2
        assert batch.gap(batch.bad_point)[index].item() == pytest.approx(loss)
    assert bool(((batch.minimiser != 0).sum(-1) == copies).all())


@SIZES
def test_iht_stays_at_the_bad_point_exactly_where_it_is_stuck(k: int, copies: int) -> None:
    # Enough that some lie close to the border on either side.
    batch = traps(k, copies, 200)
    start = batch.bad_point
    found = iht(
        batch.gradient,
        start,
        copies * k,
        1.0 / batch.beta,
        100,
        lambda theta: {"right": (theta[..., :: k + 1] != 0).any(-1).double()},
    )
    stays = (found.watched["right"] == 0).all(0)
    assert torch.equal(stays, batch.is_stuck)
    assert set(stays.tolist()) == {True, False}
    np.testing.assert_allclose(found.last[stays], start[stays], atol=1e-12)
    assert bool((batch.gap(start) > 0).all())
    assert bool((batch.gap(found.last) < batch.gap(start))[~stays].all())


@SIZES
def test_iht_with_one_more_entry_leaves_the_trap(k: int, copies: int) -> None:
    batch = traps(k, copies)
    kept = copies * k + 1
    found = iht(batch.gradient, batch.bad_point, kept, 1.0 / batch.beta, 1, lambda theta: {})
    assert bool(((found.last != 0).sum(-1) == kept).all())
