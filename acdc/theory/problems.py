"""Objectives whose sparse minimiser and curvature constants are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Problem(Protocol):
    """What a theorem speaks of: a loss, its gradient, its sparse minimiser and its constants.

    `alpha` and `beta` are constants for which the theorem's hypotheses hold: restricted strong
    convexity (or concentrated PL) and restricted smoothness.
    """

    @property
    def family(self) -> str:
        """Name of the family of instances."""
        ...

    @property
    def minimiser(self) -> Array:
        """The sparse minimiser theta*, of shape (N,)."""
        ...

    @property
    def minimum(self) -> float:
        """The loss at the minimiser."""
        ...

    @property
    def alpha(self) -> float:
        """Curvature from below."""
        ...

    @property
    def beta(self) -> float:
        """Curvature from above."""
        ...

    def loss(self, theta: Array) -> Array:
        """Loss of each of a stack of parameters: (..., N) to (...)."""
        ...

    def gradient(self, theta: Array) -> Array:
        """Full gradient at one parameter: (N,) to (N,)."""
        ...


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Sparse least squares, f(theta) = ||A theta - b||^2 / (2m), with b = A theta*.

    The Hessian A^T A / m has the spectrum [alpha, beta]. These global constants serve as the
    restricted ones of Theorem 2: over sparse directions alone the curvature lies within them.
    Since b = A theta*, every single row's loss is minimal at theta* (interpolation).

    `design` is A, (m, N); `minimiser` is theta*, (N,).
    """

    design: Array
    minimiser: Array
    alpha: float
    beta: float

    family = "least_squares"
    minimum = 0.0

    def residual(self, theta: Array) -> Array:
        """A theta - b for a stack of parameters: (..., N) to (..., m)."""
        # A (theta - theta*) and not A theta - b: near theta* the latter cancels, and a gap far
        # below the machine precision of b could not be told from zero.
        return (theta - self.minimiser) @ self.design.T

    def loss(self, theta: Array) -> Array:
        """Loss of each of a stack of parameters: (..., N) to (...)."""
        residual = self.residual(theta)
        return np.asarray(0.5 * np.mean(residual**2, axis=-1))

    def gradient(self, theta: Array) -> Array:
        """Full gradient at one parameter, A^T (A theta - b) / m: (N,) to (N,)."""
        return self.row_gradient(theta, slice(None))

    def row_gradient(self, theta: Array, rows: slice | npt.NDArray[np.int64]) -> Array:
        """Mean of the gradients of the given rows' losses (a_i theta - b_i)^2 / 2: (N,) to (N,)."""
        chosen = self.design[rows]
        gradient: Array = (chosen @ (theta - self.minimiser)) @ chosen / len(chosen)
        return gradient

    def row_variance(self, theta: Array) -> Array:
        """Mean over rows i of ||grad f_i - grad f||^2, for a stack: (..., N) to (...)."""
        residual = self.residual(theta)
        full = residual @ self.design / len(self.design)
        row_norm2 = np.sum(self.design**2, axis=1)
        spread = np.mean(row_norm2 * residual**2, axis=-1) - np.sum(full**2, axis=-1)
        # The difference of two equal numbers (one row) may round to below zero.
        return np.asarray(np.maximum(spread, 0.0))


def sparse_vector(n: int, k: int, rng: np.random.Generator) -> Array:
    """Draw a vector (n,) with k entries of random sign and magnitude in [1, 2], the others zero."""
    vector = np.zeros(n)
    support = rng.choice(n, size=k, replace=False)
    vector[support] = rng.choice([-1.0, 1.0], size=k) * rng.uniform(1.0, 2.0, size=k)
    return vector


def random_least_squares(
    n: int, m: int, k_star: int, kappa: float, rng: np.random.Generator
) -> LeastSquares:
    """Draw sparse least squares with alpha = 1/kappa and beta = 1 by construction.

    A = sqrt(m) U diag(sqrt(lambda)) V^T with lambda log-spaced in [1/kappa, 1], ends included,
    and random orthonormal U (m, n) and V (n, n), so that A^T A / m = V diag(lambda) V^T.

    Raises ValueError unless m >= n (fewer rows leave alpha = 0), 1 <= k_star <= n, kappa >= 1.
    """
    if m < n:
        raise ValueError(f"m = {m}: strong convexity needs at least n = {n} rows")
    if not 1 <= k_star <= n:
        raise ValueError(f"k_star = {k_star}: expected 1 <= k_star <= n = {n}")
    if not 1.0 <= kappa < np.inf:
        raise ValueError(f"kappa = {kappa}: expected a finite number >= 1")
    spectrum = np.geomspace(1.0 / kappa, 1.0, n)
    left = _orthonormal(m, n, rng)
    right = _orthonormal(n, n, rng)
    design = (left * np.sqrt(m * spectrum)) @ right.T
    return LeastSquares(design, sparse_vector(n, k_star, rng), alpha=1.0 / kappa, beta=1.0)


def _orthonormal(rows: int, columns: int, rng: np.random.Generator) -> Array:
    basis, triangle = np.linalg.qr(rng.standard_normal((rows, columns)))
    # QR leaves each column's sign to LAPACK; fixing it makes the draw uniform and portable.
    return np.asarray(basis * np.where(np.diag(triangle) < 0.0, -1.0, 1.0))
