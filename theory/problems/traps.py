"""F3 and F4: problems on which iterative hard thresholding is stuck away from the minimiser."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class Trap:
    """F3: f(theta) = ||A theta - e_0||^2 / 2 with a 1-sparse minimiser and a bad fixed point.

    Column 0 of A is rho e_0; columns j = 1..k are p e_0 + q e_j with k p^2 = w and p^2 + q^2 = 1.
    theta* = e_0 / rho. The best parameters on coordinates 1..k all equal tau = p / (q^2 + k p^2);
    with step 1/beta they are a fixed point of IHT with k kept entries if rho q^2 / beta < p
    (`is_stuck`). alpha and beta are the extreme eigenvalues of A^T A. ``copies`` side by side have
    k* = copies, and copies * k stuck entries. Instances (...) differ in rho and w.

    Raises:
        ValueError: rho is not above 0, w not between 0 and k, or k or copies are below 1.
    """

    family = "F3"

    def __init__(self, rho: Tensor | float, w: Tensor | float, k: int, copies: int = 1) -> None:
        self.rho, self.w = (torch.as_tensor(each, dtype=torch.float64) for each in (rho, w))
        if not bool((self.rho > 0).all() & (self.w > 0).all() & (self.w < k).all()):
            raise ValueError(f"rho = {rho}, w = {w}: expected rho > 0 and 0 < w < k = {k}")
        if copies < 1:
            raise ValueError(f"copies = {copies}: expected at least 1")
        self.k, self.copies, self.n = k, copies, copies * (k + 1)
        self.p, self.q2 = (self.w / k).sqrt(), 1.0 - self.w / k
        self.tau = self.p / (self.q2 + self.w)
        self.alpha, self.beta = self._extremes()
        self.kappa = self.beta / self.alpha
        self.is_stuck = self.rho * self.q2 / self.beta < self.p

    def _extremes(self) -> tuple[Tensor, Tensor]:
        """Return the least and the largest eigenvalue of A^T A, each (...).

        It acts on the span of e_0 and the uniform vector as a 2 x 2 matrix, and elsewhere as q^2.
        """
        a, d = self.rho.square(), self.q2 + self.w
        largest = (a + d) / 2 + torch.hypot((a - d) / 2, self.rho * self.w.sqrt())
        # From the determinant: the difference of mean and spread would cancel.
        least = a * self.q2 / largest
        if self.k > 1:
            least, largest = torch.minimum(least, self.q2), torch.maximum(largest, self.q2)
        return least, largest

    @property
    def minimiser(self) -> Tensor:
        """Return theta*, (..., N)."""
        return self._repeated(1.0 / self.rho, torch.zeros_like(self.tau))

    @property
    def bad_point(self) -> Tensor:
        """Return theta_J, tau on each wrong coordinate, (..., N)."""
        return self._repeated(torch.zeros_like(self.tau), self.tau)

    @property
    def bad_gap(self) -> Tensor:
        """Return the gap at the bad point, copies q^2 / (2 (q^2 + w)), (...)."""
        return self.copies * self.q2 / (2.0 * (self.q2 + self.w))

    def _repeated(self, first: Tensor, others: Tensor) -> Tensor:
        """Return vectors (..., N) with one value in coordinate 0 of each copy, others elsewhere."""
        first, others = first + torch.zeros_like(others), others + torch.zeros_like(first)
        block = others.unsqueeze(-1).repeat(*[1] * others.dim(), self.k + 1)
        block[..., 0] = first
        return block.repeat(*[1] * others.dim(), self.copies)

    def residual(self, theta: Tensor) -> Tensor:
        """Return A theta - e_0 of each copy: (..., N) to (..., copies, k + 1)."""
        offset = theta - self.minimiser
        offset = offset.reshape(*offset.shape[:-1], self.copies, self.k + 1)
        rho, p, q = (each[..., None, None] for each in (self.rho, self.p, self.q2.sqrt()))
        target = rho * offset[..., :1]
        target = target + p * offset[..., 1:].sum(-1, keepdim=True)
        return torch.cat([target, q * offset[..., 1:]], dim=-1)

    def gradient(self, theta: Tensor) -> Tensor:
        """Return A^T (A theta - e_0): (..., N) to (..., N)."""
        residual = self.residual(theta)
        rho, p, q = (each[..., None, None] for each in (self.rho, self.p, self.q2.sqrt()))
        target, own = residual[..., :1], residual[..., 1:]
        return torch.cat([rho * target, p * target + q * own], dim=-1).flatten(-2)

    def gap(self, theta: Tensor) -> Tensor:
        """Return f(theta): (..., N) to (...)."""
        return 0.5 * self.residual(theta).square().sum((-2, -1))


@dataclass(frozen=True, eq=False)
class OneCoordinate:
    """F4: f(theta) = (theta_1 - 1)^2 / 2, whose minimisers are all theta with theta_1 = 1.

    (1, alpha)-CPL holds for every alpha <= 4, since ||grad f||^2 = 2 (f - f*).
    """

    n: int

    family = "F4"
    alpha = torch.tensor(4.0, dtype=torch.float64)
    beta = torch.tensor(1.0, dtype=torch.float64)

    @property
    def minimiser(self) -> Tensor:
        """Return the 1-sparse minimiser, (N,)."""
        one = torch.zeros(self.n, dtype=torch.float64)
        one[0] = 1.0
        return one

    def gap(self, theta: Tensor) -> Tensor:
        """Return f(theta): (..., N) to (...)."""
        return 0.5 * (theta[..., 0] - 1.0).square()

    def gradient(self, theta: Tensor) -> Tensor:
        """Return (theta_1 - 1, 0, ...): (..., N) to (..., N)."""
        return (theta - 1.0) * self.minimiser
