"""The interface of problems, and random sparse minimisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Gradient = Callable[[Tensor], Tensor]
"""The gradient or an unbiased estimate of it, (..., N) to (..., N)."""


class Problem(Protocol):
    """A loss with its gradient, its sparse minimiser and its constants, for many instances at once.

    `alpha` and `beta` are constants for which the theorem's hypotheses hold: restricted strong
    convexity (or concentrated PL) and restricted smoothness.
    """

    @property
    def family(self) -> str:
        """Return the name of the family of instances."""

    @property
    def minimiser(self) -> Tensor:
        """Return the sparse minimiser theta*, (..., N)."""

    @property
    def alpha(self) -> Tensor:
        """Return the lower bound on the curvature, (...)."""

    @property
    def beta(self) -> Tensor:
        """Return the upper bound on the curvature, (...)."""

    def gap(self, theta: Tensor) -> Tensor:
        """Return f(theta) - f(theta*): (..., N) to (...)."""

    def gradient(self, theta: Tensor) -> Tensor:
        """Return the gradient of f at theta: (..., N) to (..., N)."""


def check_sizes(n: int, k_star: int) -> None:
    """Check the sparsity of a minimiser.

    Raises:
        ValueError: not 1 <= k_star <= n.
    """
    if not 1 <= k_star <= n:
        raise ValueError(f"k_star = {k_star}: expected 1 <= k_star <= n = {n}")


def check_kappas(kappas: Sequence[float]) -> None:
    """Check condition numbers.

    Raises:
        ValueError: one is below 1 or not finite.
    """
    for kappa in kappas:
        if not 1.0 <= kappa < math.inf:
            raise ValueError(f"kappa = {kappa}: expected a finite number >= 1")


def sparse_vectors(count: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw vectors (count, n), each with k entries of random sign and magnitude in [1, 2].

    Raises:
        ValueError: not 1 <= k <= n.
    """
    check_sizes(n, k)
    places = torch.rand((count, n), dtype=torch.float64, generator=generator).argsort(-1)[:, :k]
    sizes = 1.0 + torch.rand((count, k), dtype=torch.float64, generator=generator)
    signs = torch.randint(0, 2, (count, k), generator=generator) * 2.0 - 1.0
    return torch.zeros((count, n), dtype=torch.float64).scatter_(-1, places, signs * sizes)
