"""F1': sparse least squares with Gaussian designs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from theory.problems.base import Gradient, sparse_vectors


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """f(theta) = ||A theta - b||^2 / (2 m) with b = A theta* + e, where A^T e = 0.

    As e is orthogonal to the columns, theta* is a minimiser whatever its size, and
    f* = ||e||^2 / 2m; but single rows' gradients do not vanish there, so that mini-batches have a
    noise floor. alpha and beta are the extreme eigenvalues of A^T A / m (alpha = 0 where m < N).
    """

    design: Tensor
    """A, (..., m, N)."""
    minimiser: Tensor
    """theta*, (..., 1, N), for trials (..., any)."""
    error: Tensor
    """e, (..., 1, m)."""
    alpha: Tensor
    beta: Tensor

    family = "F1'"

    @property
    def rows(self) -> int:
        """Return the number of rows, m."""
        return self.design.shape[-2]

    @property
    def targets(self) -> Tensor:
        """Return b, (..., 1, m)."""
        return self.minimiser @ self.design.mT + self.error

    def gradient(self, theta: Tensor) -> Tensor:
        """Return A^T A (theta - theta*) / m: (..., N) to (..., N)."""
        # Not A theta - b, which cancels near theta*.
        return ((theta - self.minimiser) @ self.design.mT) @ self.design / self.rows

    def gap(self, theta: Tensor) -> Tensor:
        """Return f(theta) - f*: (..., N) to (...)."""
        fit = (theta - self.minimiser) @ self.design.mT
        return 0.5 * fit.square().mean(-1)

    def minibatch(self, size: int, generator: torch.Generator) -> Gradient:
        """Return the gradient over ``size`` rows, drawn afresh at each call with replacement.

        Its variance is `row_variance` / size.
        """

        def gradient(theta: Tensor) -> Tensor:
            residual = (theta - self.minimiser) @ self.design.mT - self.error
            rows = torch.randint(self.rows, (*residual.shape[:-1], size), generator=generator)
            # How often each row was drawn, as weights of the residuals.
            drawn = torch.zeros_like(residual).scatter_add_(
                -1, rows, torch.ones(rows.shape, dtype=residual.dtype)
            )
            return (residual * drawn) @ self.design / size

        return gradient

    def row_variance(self, theta: Tensor) -> Tensor:
        """Return E||grad f_i - grad f||^2 over rows i: (..., N) to (...)."""
        residual = (theta - self.minimiser) @ self.design.mT - self.error
        norms2 = self.design.square().sum(-1).unsqueeze(-2)
        spread = (norms2 * residual.square()).mean(-1) - self.gradient(theta).square().sum(-1)
        # The difference of two equal numbers (one row) may round to below zero.
        return spread.clamp_min(0.0)


def gaussian_least_squares(
    count: int, n: int, m: int, k_star: int, generator: torch.Generator, error: float = 0.0
) -> LeastSquares:
    """Draw designs of independent standard normal entries, for trials (count, any).

    The error e has the root mean square ``error`` over the rows; it needs m > n.

    Raises:
        ValueError: not 1 <= k_star <= n; m below 1; error is negative, or positive with m <= n.
    """
    if m < 1 or error < 0.0 or (error > 0.0 and m <= n):
        raise ValueError(f"m = {m}, error = {error}: expected m >= 1, error 0 or more with m > {n}")
    design = torch.randn((count, m, n), dtype=torch.float64, generator=generator)
    minimiser = sparse_vectors(count, n, k_star, generator).unsqueeze(1)
    drawn = torch.randn((count, m, 1), dtype=torch.float64, generator=generator)
    if error > 0.0:
        basis = torch.linalg.qr(design).Q
        drawn = drawn - basis @ (basis.mT @ drawn)
        drawn = error * drawn / drawn.square().mean(1, keepdim=True).sqrt()
    else:
        drawn = torch.zeros_like(drawn)
    values = torch.linalg.svdvals(design).square() / m
    alpha = values[:, -1:] if m >= n else torch.zeros((count, 1), dtype=torch.float64)
    return LeastSquares(design, minimiser, drawn.mT, alpha, values[:, :1])


def restricted_constants(
    design: Tensor, size: int, supports: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Estimate the extreme eigenvalues of A_S^T A_S / m over supports S of one size, (count,) each.

    The true restricted alpha is at most the first, the true restricted beta at least the second:
    both were found at some support. Finding them exactly is NP-hard. Of the random supports the
    worst is improved, for beta and for alpha, by exchanging one column at a time for the one along
    which the extreme eigenvector's image grows (shrinks) most.

    Args:
        design: A, (count, m, N).
        size: |S|, 1 to N.
        supports: number of random ones.
        generator: of these.
    """
    count, m, n = design.shape
    if not 1 <= size <= n:
        raise ValueError(f"size = {size}: expected 1 <= size <= N = {n}")
    gram = design.mT @ design / m
    draws = torch.rand((count, supports, n), dtype=torch.float64, generator=generator)
    chosen = draws.argsort(-1)[..., :size]
    values = torch.linalg.eigvalsh(_minors(gram, chosen))
    alpha, beta = values[..., 0].amin(-1), values[..., -1].amax(-1)
    if size == n:  # There is one support, and no column to exchange.
        return alpha, beta
    # From the worst random supports, one exchange at a time.
    for extreme, sign in ((0, -1.0), (-1, 1.0)):
        scores = sign * values[..., extreme]
        best = chosen[torch.arange(count), scores.argmax(-1)]
        for _ in range(2 * size):
            found = torch.linalg.eigh(_minors(gram, best.unsqueeze(1)).squeeze(1))
            vector = torch.zeros((count, n), dtype=torch.float64)
            vector.scatter_(-1, best, found.eigenvectors[..., extreme])
            alpha = torch.minimum(alpha, found.eigenvalues[..., 0])
            beta = torch.maximum(beta, found.eigenvalues[..., -1])
            pull = (gram @ vector.unsqueeze(-1)).squeeze(-1).abs()
            outside = pull.scatter(-1, best, -torch.inf)
            weakest = vector.gather(-1, best).abs().argmin(-1, keepdim=True)
            best = best.scatter(-1, weakest, outside.argmax(-1, keepdim=True))
    return alpha, beta


def _minors(gram: Tensor, chosen: Tensor) -> Tensor:
    """Return principal minors: (count, N, N) and (count, supports, size) to (..., size, size)."""
    count, supports, size = chosen.shape
    rows = gram.unsqueeze(1).expand(count, supports, *gram.shape[1:])
    rows = rows.gather(2, chosen.unsqueeze(-1).expand(count, supports, size, gram.shape[-1]))
    return rows.gather(3, chosen.unsqueeze(2).expand(count, supports, size, size))
