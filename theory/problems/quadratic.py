"""F1: quadratics with a known spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.problems.base import sparse_vectors


@dataclass(frozen=True, eq=False)
class Quadratic:
    """f(theta) = (theta - theta*)^T H (theta - theta*) / 2, a problem of its own for each seed.

    The spectrum of H lies in [alpha, beta], both ends included. These global constants serve as the
    restricted ones: along sparse directions the curvature lies within them. theta* is the unique
    minimiser, and f* = 0.
    """

    hessian: Tensor
    """H, (..., N, N), or its diagonal, (..., N)."""
    minimiser: Tensor
    alpha: Tensor
    beta: Tensor
    is_diagonal: bool = False

    family = "F1"

    def gradient(self, theta: Tensor) -> Tensor:
        """Return H (theta - theta*): (..., N) to (..., N)."""
        offset = theta - self.minimiser
        return offset * self.hessian if self.is_diagonal else offset @ self.hessian

    def gap(self, theta: Tensor) -> Tensor:
        """Return f(theta) - f*: (..., N) to (...)."""
        return 0.5 * ((theta - self.minimiser) * self.gradient(theta)).sum(-1)


def spectrum(n: int, kappas: Sequence[float]) -> Tensor:
    """Return eigenvalues log-spaced in [1/kappa, 1], ends included, (kappas, n).

    Raises:
        ValueError: a kappa is below 1 or not finite, or n is below 2.
    """
    if n < 2 or not all(1.0 <= kappa < math.inf for kappa in kappas):
        raise ValueError(f"n = {n}, kappas = {kappas}: expected n >= 2 and finite kappas >= 1")
    exponents = torch.linspace(-1.0, 0.0, n, dtype=torch.float64)
    return torch.tensor(kappas, dtype=torch.float64).unsqueeze(-1) ** exponents


def rotated_quadratics(
    kappas: Sequence[float], n: int, k_star: int, generator: torch.Generator
) -> Quadratic:
    """Draw a quadratic for each condition number, of shape (kappas, 1, n) for trials (kappas, any).

    H = Q diag(lambda) Q^T with the eigenvalues of `spectrum` and Q uniform among the orthogonal
    matrices, so that alpha = 1/kappa and beta = 1. theta* has k_star non-zeros.
    """
    eigenvalues = spectrum(n, kappas)
    normal = torch.randn((len(kappas), n, n), dtype=torch.float64, generator=generator)
    basis, triangle = torch.linalg.qr(normal)
    # QR leaves each column's sign to LAPACK; fixing it makes the draw uniform and portable.
    basis = basis * torch.sign(triangle.diagonal(dim1=-2, dim2=-1)).unsqueeze(-2)
    hessian = (basis * eigenvalues.unsqueeze(-2)) @ basis.mT
    minimiser = sparse_vectors(len(kappas), n, k_star, generator)
    return Quadratic(hessian, minimiser.unsqueeze(-2), eigenvalues[:, :1], eigenvalues[:, -1:])


def diagonal_quadratics(
    kappas: Sequence[float], n: int, k_star: int, generator: torch.Generator, *, flat: bool = False
) -> Quadratic:
    """Draw quadratics as `rotated_quadratics`, with H diagonal in a random order of eigenvalues.

    With ``flat`` the curvature on the minimiser's support is alpha, the least there is; should the
    coordinate of curvature 1 be there, beta = 1 remains as a bound.
    """
    eigenvalues = spectrum(n, kappas)
    order = torch.rand((len(kappas), n), dtype=torch.float64, generator=generator).argsort(-1)
    minimiser = sparse_vectors(len(kappas), n, k_star, generator)
    curvature = eigenvalues.gather(-1, order)
    if flat:
        curvature = torch.where(minimiser == 0, curvature, eigenvalues[:, :1])
    ends = eigenvalues[:, :1], eigenvalues[:, -1:]
    return Quadratic(curvature.unsqueeze(-2), minimiser.unsqueeze(-2), *ends, is_diagonal=True)
