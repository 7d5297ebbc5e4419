"""F2: a non-convex problem whose gradient is concentrated in k* coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from theory.problems.base import Gradient, sparse_vectors


@dataclass(frozen=True, eq=False)
class SineSquares:
    """f(theta) = sum_j phi_c((A theta - b)_j), phi_c(x) = x^2 + c sin^2 x, with b = A theta*.

    A = [I, eps G] has m = k* rows, and theta* lies in its first m coordinates. The first m entries
    of the gradient are phi'_c of the residuals, which gives the (k*, alpha)-CPL condition with
    alpha = 2 min phi'^2/phi; f is beta-smooth in all directions for beta = (2 + 2c) ||A||^2. Not
    convex for c > 1. f* = 0, and minimisers form an affine subspace of dimension N - m.
    """

    c: float
    tail: Tensor
    """eps G, (..., m, N - m)."""
    minimiser: Tensor
    """theta*, (..., N)."""
    alpha: Tensor
    """The largest CPL constant; above beta for a small c."""
    beta: Tensor

    family = "F2"

    @property
    def alpha_up_to_beta(self) -> Tensor:
        """Return the CPL constant for Theorem 1, whose proof assumes alpha <= beta.

        Any number below a CPL constant is a CPL constant.
        """
        return torch.minimum(self.alpha, self.beta)

    def residual(self, theta: Tensor) -> Tensor:
        """Return A theta - b: (..., N) to (..., m)."""
        offset = theta - self.minimiser
        m = self.tail.shape[-2]
        return offset[..., :m] + offset[..., m:] @ self.tail.mT

    def gap(self, theta: Tensor) -> Tensor:
        """Return f(theta): (..., N) to (...)."""
        residual = self.residual(theta)
        return (residual.square() + self.c * residual.sin().square()).sum(-1)

    def gradient(self, theta: Tensor, weights: Tensor | float = 1.0) -> Tensor:
        """Return A^T phi'(A theta - b), residuals weighted: (..., N) to (..., N)."""
        residual = self.residual(theta)
        slope = weights * (2.0 * residual + self.c * (2.0 * residual).sin())
        return torch.cat([slope, slope @ self.tail], dim=-1)

    def parts(self, count: int) -> tuple[list[Gradient], Tensor]:
        """Return gradients of f_1 .. f_count, whose mean is f, and the smoothness of each.

        f_i is count times the sum over residuals i, i + count, i + 2 count and so on. Its beta_i is
        (2 + 2c) count ||A_i||^2, (problems, 1, count).

        Raises:
            ValueError: there are fewer than ``count`` residuals.
        """
        m = self.tail.shape[-2]
        if not 1 <= count <= m:
            raise ValueError(f"count = {count}: expected 1 <= count <= {m}, the rows of A")
        gradients: list[Gradient] = []
        betas = []
        for first in range(count):
            weights = torch.zeros(m, dtype=torch.float64)
            weights[first::count] = count
            gradients.append(partial(self.gradient, weights=weights))
            norms = torch.linalg.matrix_norm(self.tail[:, first::count], ord=2)
            betas.append(1.0 + norms.square())
        return gradients, (2.0 + 2.0 * self.c) * count * torch.stack(betas, dim=-1).unsqueeze(1)


@cache
def cpl_constant(c: float) -> float:
    """Return alpha = 2 min over x of phi'_c(x)^2 / phi_c(x), with phi_c(x) = x^2 + c sin^2 x.

    The ratio tends to 4 (1 + c) at 0 and to 4 far away; its least value lies in between.

    Raises:
        ValueError: c is negative, or so large that phi has other stationary points than 0.
    """
    from scipy.optimize import minimize_scalar

    if not 0.0 <= c < math.inf:
        raise ValueError(f"c = {c}: expected a finite number >= 0")

    def ratio(x: np.ndarray | float) -> np.ndarray:
        slope = 2.0 * x + c * np.sin(2.0 * np.asarray(x))
        return np.asarray(slope**2 / (x**2 + c * np.sin(x) ** 2))

    # Beyond 64 the ratio differs from 4 by less than 8 c / 64.
    grid = np.linspace(1e-3, 64.0, 64_000)
    best = grid[int(np.argmin(ratio(grid)))]
    found = minimize_scalar(
        lambda x: float(ratio(x)), bounds=(best - 1e-3, best + 1e-3), options={"xatol": 1e-12}
    )
    slopes = 2.0 * grid + c * np.sin(2.0 * grid)
    if slopes.min() <= 0.0:
        raise ValueError(f"c = {c}: phi has stationary points beside 0. Allowed: a smaller c")
    return 2.0 * min(float(found.fun), 4.0)


def typical_constants(c: float, epsilon: float) -> tuple[float, float]:
    """Return estimates of alpha, at most beta, and beta of `sine_squares`, before any draw."""
    beta = (2.0 + 2.0 * c) * (1.0 + epsilon**2)
    return min(cpl_constant(c), beta), beta


def sine_squares(
    count: int, c: float, epsilon: float, n: int, k_star: int, generator: torch.Generator
) -> SineSquares:
    """Draw instances of shape (count, 1, n) for trials (count, any).

    A has k_star rows, as many as the minimiser has non-zeros; c is the weight of the sine, and
    epsilon the scale of the other columns, G being standard normal divided by sqrt(N - m).

    Raises:
        ValueError: not 1 <= k_star < n, c is negative or too large.
    """
    if not k_star < n:
        raise ValueError(f"k_star = {k_star}: expected less than n = {n}")
    alpha = cpl_constant(c)
    normal = torch.randn((count, k_star, n - k_star), dtype=torch.float64, generator=generator)
    tail = epsilon / (n - k_star) ** 0.5 * normal
    minimiser = torch.zeros((count, 1, n), dtype=torch.float64)
    minimiser[:, 0, :k_star] = sparse_vectors(count, k_star, k_star, generator)
    norms2 = 1.0 + torch.linalg.matrix_norm(tail, ord=2).square().unsqueeze(-1)
    return SineSquares(c, tail, minimiser, torch.full_like(norms2, alpha), (2.0 + 2.0 * c) * norms2)
