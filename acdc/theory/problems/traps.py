"""F3 and F4: problems on which iterative hard thresholding is stuck away from the minimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Trap:
    """F3: f(theta) = ||A theta - e_0||^2 / 2 with a 1-sparse minimiser and a bad fixed point.

    Column 0 of A is rho e_0; columns j = 1..k are p e_0 + q e_j with k p^2 = w and p^2 + q^2 = 1.
    theta* = e_0 / rho. The best parameters on coordinates 1..k are all tau = p / (q^2 + k p^2);
    with step 1/beta they are a fixed point of IHT with k kept entries if rho q^2 / beta < p.
    alpha and beta are the extreme eigenvalues of A^T A. ``copies`` of it side by side have k* =
    copies, and copies * k entries are stuck.
    """

    rho: float
    w: float
    k: int
    copies: int = 1

    family = "F3"

    def __post_init__(self) -> None:
        if self.rho <= 0.0:
            raise ValueError(f"rho = {self.rho}: expected more than 0")
        if self.k < 1 or self.copies < 1:
            raise ValueError(f"k = {self.k}, copies = {self.copies}: expected at least 1")
        if not 0.0 < self.w < self.k:
            raise ValueError(f"w = {self.w}: expected 0 < w < k = {self.k}")

    @property
    def p(self) -> float:
        """Overlap of each wrong column with the target."""
        return math.sqrt(self.w / self.k)

    @property
    def q2(self) -> float:
        """q^2, what each wrong column has of its own."""
        return 1.0 - self.w / self.k

    @property
    def tau(self) -> float:
        """Each entry of the bad fixed point."""
        return self.p / (self.q2 + self.w)

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the largest eigenvalue of A^T A.

        It acts on the span of e_0 and the uniform vector as a 2 x 2 matrix, and elsewhere as q^2.
        """
        a, d = self.rho**2, self.q2 + self.w
        mean, spread = (a + d) / 2, math.hypot((a - d) / 2, self.rho * math.sqrt(self.w))
        # The product of the two is exact where their difference would cancel.
        largest = mean + spread
        least = a * self.q2 / largest
        return (min(least, self.q2), max(largest, self.q2)) if self.k > 1 else (least, largest)

    @property
    def alpha(self) -> Tensor:
        """Least eigenvalue, ()."""
        return torch.tensor(self.extremes[0], dtype=torch.float64)

    @property
    def beta(self) -> Tensor:
        """Largest eigenvalue, ()."""
        return torch.tensor(self.extremes[1], dtype=torch.float64)

    @property
    def kappa(self) -> float:
        """Condition number beta/alpha."""
        return self.extremes[1] / self.extremes[0]

    @property
    def is_stuck(self) -> bool:
        """Whether the bad point is a fixed point: the right coordinate stays below the others."""
        return self.rho * self.q2 / self.extremes[1] < self.p

    @property
    def design(self) -> Tensor:
        """A, (copies (k + 1), copies (k + 1))."""
        block = torch.zeros((self.k + 1, self.k + 1), dtype=torch.float64)
        block[0, 0] = self.rho
        block[0, 1:] = self.p
        block[1:, 1:] = math.sqrt(self.q2) * torch.eye(self.k, dtype=torch.float64)
        return torch.kron(torch.eye(self.copies, dtype=torch.float64), block)

    @property
    def minimiser(self) -> Tensor:
        """theta*, (N,)."""
        one = torch.zeros(self.k + 1, dtype=torch.float64)
        one[0] = 1.0 / self.rho
        return one.repeat(self.copies)

    @property
    def bad_point(self) -> Tensor:
        """theta_J, tau on each wrong coordinate, (N,)."""
        one = torch.full((self.k + 1,), self.tau, dtype=torch.float64)
        one[0] = 0.0
        return one.repeat(self.copies)

    def gradient(self, theta: Tensor) -> Tensor:
        """A^T A (theta - theta*): (..., N) to (..., N)."""
        return ((theta - self.minimiser) @ self.design.mT) @ self.design

    def gap(self, theta: Tensor) -> Tensor:
        """f(theta): (..., N) to (...)."""
        return 0.5 * ((theta - self.minimiser) @ self.design.mT).square().sum(-1)


@dataclass(frozen=True, eq=False)
class OneCoordinate:
    """F4: f(theta) = (theta_1 - 1)^2 / 2, whose minimisers are all theta with theta_1 = 1.

    beta = 1; (1, alpha)-CPL holds for every alpha <= 4, since ||grad f||^2 = 2 (f - f*).
    """

    n: int

    family = "F4"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n = {self.n}: expected at least 1")

    @property
    def alpha(self) -> Tensor:
        """The largest CPL constant, ()."""
        return torch.tensor(4.0, dtype=torch.float64)

    @property
    def beta(self) -> Tensor:
        """Curvature in the one direction that counts, ()."""
        return torch.tensor(1.0, dtype=torch.float64)

    @property
    def minimiser(self) -> Tensor:
        """The 1-sparse minimiser, (N,)."""
        one = torch.zeros(self.n, dtype=torch.float64)
        one[0] = 1.0
        return one

    def gap(self, theta: Tensor) -> Tensor:
        """f(theta): (..., N) to (...)."""
        return 0.5 * (theta[..., 0] - 1.0).square()

    def gradient(self, theta: Tensor) -> Tensor:
        """(theta_1 - 1, 0, ...): (..., N) to (..., N)."""
        gradient = torch.zeros_like(theta)
        gradient[..., 0] = theta[..., 0] - 1.0
        return gradient
