"""Both sides of the paper's lemmas on vectors, and random vectors to compare them on.

Reconstructed from the prose of Appendix A; beta = 1 throughout, which rescales f.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from acdc.sparsity.selection import top_k_rows
from theory.problems.sine import SineSquares

ENSEMBLES = ("Gaussian", "heavy-tailed", "equal magnitudes", "sparse")
# Relative room for rounding.
ROOM = 1e-11


def vectors(ensemble: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw random vectors of one of `ENSEMBLES`, (..., n)."""
    normal = torch.randn(shape, dtype=torch.float64, generator=generator)
    other = torch.randn(shape, dtype=torch.float64, generator=generator)
    if ensemble == "heavy-tailed":
        return normal / other
    if ensemble == "equal magnitudes":
        return torch.where(normal > 0.0, 1.0, -1.0).to(normal)
    if ensemble == "sparse":
        return torch.where(other > 1.0, normal, 0.0)
    return normal


def exceeds(left: Tensor, right: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return the mask of where left exceeds right by more than rounding at a scale."""
    return left - right > ROOM * (right if scale is None else scale).abs()


def nearest_minimiser(problem: SineSquares, theta: Tensor) -> Tensor:
    """Return the squared distance to the nearest minimiser of F2, ||A^+ (A theta - b)||^2.

    Instances (count,) and theta (count, any, N) give (count, any).
    """
    residual = problem.residual(theta).mT
    gram = torch.eye(residual.shape[-2], dtype=torch.float64) + problem.tail @ problem.tail.mT
    multipliers: Tensor = torch.linalg.solve(gram, residual)
    return (residual * multipliers).sum(-2)


@dataclass(frozen=True)
class Point:
    """Points of Lemmas 2 and 3 and Corollary 2, with beta = 1: vectors (instances, N)."""

    theta: Tensor
    gradient: Tensor
    """The gradient of f at theta."""

    @property
    def y(self) -> Tensor:
        """Return the gradient step from theta."""
        return self.theta - self.gradient

    def lemma2(self, gap: Tensor, moved: Tensor) -> Tensor:
        """Return the right side of Lemma 2, a bound on f - f* at theta', (instances, N).

        The gap is f - f* at theta, (instances,).
        """
        union = (self.theta != 0.0) | (moved != 0.0)
        return gap - 0.5 * _square(self.gradient, union) + 0.5 * _square(moved - self.y, union)

    def lemma3(self, moved: Tensor, extra: Tensor, compared: Tensor, factor: float = 1.0) -> Sides:
        """Return both sides of Lemma 3, or of Corollary 2, for the hardest R.

        R is any subset of S minus S' that is as large as S' minus S and X, and I is the union of S,
        S' and X.

        Args:
            moved: theta' = T_k(y).
            extra: X, masks (instances, N).
            compared: theta' in Lemma 3, theta* in Corollary 2.
            factor: of the square on the right; 1 in Lemma 3, 2 k* / (k + k*) in Corollary 2.
        """
        before, after = self.theta != 0.0, moved != 0.0
        union, dropped = before | after | extra, before & ~after
        count = (after & ~(before | extra)).sum(-1)
        away = compared - self.y
        removed = top_k_rows(torch.where(dropped, away.abs(), -torch.inf), count) & dropped
        carried = 0.5 * _square(self.gradient, before | extra)
        return Sides(
            0.5 * _square(moved - self.y, union) - 0.5 * _square(self.gradient, union),
            0.5 * factor * _square(away, union & ~removed) - carried,
            carried,
            count,
        )


@dataclass(frozen=True)
class Sides:
    """Both sides of an inequality, (instances,)."""

    left: Tensor
    right: Tensor
    carried: Tensor
    """Half the gradient's square on the union of S and X, which is subtracted on the right."""
    removed: Tensor
    """|R|."""

    @property
    def violated(self) -> Tensor:
        """Return the mask of violated instances."""
        return exceeds(self.left, self.right, self.carried + (self.right + self.carried))

    @property
    def ratio(self) -> Tensor:
        """Return left over right, both without the subtracted term; 1 is an equality."""
        return (self.left + self.carried) / (self.right + self.carried)


def _square(x: Tensor, on: Tensor) -> Tensor:
    return torch.where(on, x, 0.0).square().sum(-1)


def equal_magnitudes(
    trials: int, n: int, k: int, k_star: int, generator: torch.Generator
) -> tuple[Point, Tensor]:
    """Draw points at which Corollary 2 is nearly an equality, and theta*, (trials, N).

    All |y| are equal up to a thousandth, theta* agrees with y outside S, and the largest entries of
    the gradient lie elsewhere: dropping 2 k* of k + 2 k* equal entries is what its factor is for.
    The inequality is about vectors: which f has this gradient does not enter.
    """

    def uniform() -> Tensor:
        return torch.rand((trials, n), dtype=torch.float64, generator=generator)

    y = torch.where(uniform() < 0.5, -1.0, 1.0) * (1.0 - 1e-3 * uniform())
    ranks = uniform().argsort(-1).argsort(-1)
    support, sparse = ranks < k, (ranks >= k) & (ranks < k + k_star)
    # Smaller there, so that the gradient's largest entries are others.
    y = torch.where(sparse, 0.999 * y, y)
    theta = torch.where(support, y, 0.0)
    return Point(theta, theta - y), torch.where(sparse, y, 0.0)
