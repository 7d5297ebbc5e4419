"""Stochastic gradients with a known variance, sigma^2 = E||g(theta) - grad f(theta)||^2 (A1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from acdc.theory.problems import Array, LeastSquares, Problem


class GradientOracle(Protocol):
    """An unbiased gradient estimate that knows its own variance."""

    @property
    def name(self) -> str:
        """One word for the kind of oracle."""
        ...

    @property
    def label(self) -> str:
        """The oracle and its setting, for people."""
        ...

    @property
    def has_bounded_variance(self) -> bool:
        """Whether one finite sigma serves at every theta, as A1 asks."""
        ...

    def __call__(self, theta: Array) -> Array:
        """Draw g(theta): (N,) to (N,)."""
        ...

    def variance(self, thetas: Array) -> Array:
        """E||g(theta) - grad f(theta)||^2 for a stack of parameters: (..., N) to (...)."""
        ...


@dataclass(frozen=True, eq=False)
class FullGradient:
    """The gradient itself: sigma = 0."""

    problem: Problem

    name = "full"
    label = "full gradient"
    has_bounded_variance = True

    def __call__(self, theta: Array) -> Array:
        """Return grad f(theta): (N,) to (N,)."""
        return self.problem.gradient(theta)

    def variance(self, thetas: Array) -> Array:
        """Zero for each of a stack of parameters."""
        return np.zeros(thetas.shape[:-1])


@dataclass(frozen=True, eq=False)
class GaussianNoise:
    """The gradient plus isotropic Gaussian noise, N(0, (sigma^2 / N) I).

    Its variance is sigma^2 everywhere, theta* included, so that A1 holds with equality and the
    iteration has a noise floor.
    """

    problem: Problem
    sigma: float
    rng: np.random.Generator

    name = "gaussian"
    has_bounded_variance = True

    @property
    def label(self) -> str:
        """The oracle and its noise level."""
        return f"Gaussian noise, sigma = {self.sigma:g}"

    def __call__(self, theta: Array) -> Array:
        """Draw g(theta): (N,) to (N,)."""
        noise = self.rng.standard_normal(len(theta))
        return np.asarray(self.problem.gradient(theta) + self.sigma / np.sqrt(len(theta)) * noise)

    def variance(self, thetas: Array) -> Array:
        """sigma^2 for each of a stack of parameters."""
        return np.full(thetas.shape[:-1], self.sigma**2)


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """The mean gradient of `batch_size` of the m rows, drawn afresh and without replacement.

    Its variance is row_variance(theta) / batch_size * (m - batch_size) / (m - 1). It grows with
    the residual: with b = A theta* it vanishes at theta*, and no finite sigma serves all of R^N, so
    that A1 fails and a step of 1/beta may diverge.

    Raises ValueError unless 1 <= batch_size <= m.
    """

    problem: LeastSquares
    batch_size: int
    rng: np.random.Generator

    name = "minibatch"
    has_bounded_variance = False

    def __post_init__(self) -> None:
        """Refuse a batch that the rows cannot fill."""
        rows = len(self.problem.design)
        if not 1 <= self.batch_size <= rows:
            raise ValueError(f"batch_size = {self.batch_size}: expected 1 <= batch_size <= {rows}")

    @property
    def label(self) -> str:
        """The oracle and its batch size."""
        return f"mini-batches of {self.batch_size} of {len(self.problem.design)} rows"

    def __call__(self, theta: Array) -> Array:
        """Draw g(theta): (N,) to (N,)."""
        rows = self.rng.choice(
            len(self.problem.design), size=self.batch_size, replace=False, shuffle=False
        )
        return self.problem.row_gradient(theta, rows)

    def variance(self, thetas: Array) -> Array:
        """Variance of the batch mean for each of a stack of parameters: (..., N) to (...)."""
        rows = len(self.problem.design)
        finite_population = (rows - self.batch_size) / max(rows - 1, 1)
        return np.asarray(self.problem.row_variance(thetas) * finite_population / self.batch_size)
