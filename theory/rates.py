"""Predictions of the theorems, as pure functions of the constants.

All formulas are reconstructed: the text of the paper that this suite was written from has the prose
of the proofs (Section 3.1, Appendix A) but not the displayed formulas. The constants in O(.) are
those of the reconstructed proofs. Arguments are numbers or tensors that broadcast: alpha <= beta
bound the curvature from below and above, sigma^2 is the variance of the stochastic gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lemma1_factor(n: int, k: int, k_star: int) -> float:
    """Return (n-k)/(n-k*), which bounds ||T_k(x) - x||^2 over ||x* - x||^2 for k*-sparse x*.

    Lemma 1; only for k >= k* (Appendix A).

    Raises:
        ValueError: not 0 <= k_star <= k <= n, or k_star = n.
    """
    if not 0 <= k_star <= k <= n or k_star == n:
        raise ValueError(f"k_star = {k_star}, k = {k}: expected 0 <= k_star <= k <= n = {n}")
    return (n - k) / (n - k_star)


def expansion(k_star: Tensor, k: Tensor) -> Tensor:
    """Return (1 + sqrt(k*/k))^2, which bounds ||T_k(x) - x*||^2 over ||x - x*||^2 (Lemma 1)."""
    return (1.0 + (k_star / k).sqrt()) ** 2


class Theorem2:
    """Stochastic IHT with step 1/beta under restricted strong convexity (Appendix A.1.2, A.3).

    With D = ||theta - theta*||^2, one step gives

        E D' <= (1 + sqrt(k*/k))^2 [(1 - alpha/beta) D + sigma^2 / beta^2]    for every k >= k*.

    The factor of D is below one only if k is large enough for the given beta/alpha; otherwise the
    inequality is true but vacuous. The theorem requires more,
    k >= 64 k* (beta/alpha)^2 (`meets_condition`), and then states the floors
    2 sigma^2 / (alpha beta) for E D and sigma^2 / alpha for E f - f*.

    With noise in all coordinates the step is proven only for f that is beta-smooth in all
    directions, not only in sparse ones: the kept support depends on the noise.

    Raises:
        ValueError: not 0 < alpha <= beta, not 1 <= k_star <= k, or sigma is negative.
    """

    def __init__(
        self,
        alpha: Tensor | float,
        beta: Tensor | float,
        k_star: Tensor | float,
        k: Tensor | float,
        sigma: Tensor | float = 0.0,
    ) -> None:
        self.alpha, self.beta, self.k_star, self.k, self.sigma = (
            torch.as_tensor(value, dtype=torch.float64) for value in (alpha, beta, k_star, k, sigma)
        )
        ordered = (self.alpha > 0) & (self.alpha <= self.beta) & self.beta.isfinite()
        if not bool(ordered.all()):
            raise ValueError(f"alpha = {alpha}: expected 0 < alpha <= beta = {beta}")
        if not bool(((self.k_star >= 1) & (self.k_star <= self.k)).all()):
            raise ValueError(f"k_star = {k_star}: expected 1 <= k_star <= k = {k}")
        if not bool((self.sigma >= 0).all()):
            raise ValueError(f"sigma = {sigma}: expected at least 0")

    @property
    def factor(self) -> Tensor:
        """Return the factor of D in the one-step bound."""
        return expansion(self.k_star, self.k) * (1.0 - self.alpha / self.beta)

    @property
    def enough(self) -> Tensor:
        """Return the least k for which the theorem states its floors, 64 k* (beta/alpha)^2."""
        return 64.0 * self.k_star * (self.beta / self.alpha) ** 2

    @property
    def meets_condition(self) -> Tensor:
        """Return whether k >= 64 k* (beta/alpha)^2."""
        return self.k >= self.enough

    @property
    def stated_distance2_floor(self) -> Tensor:
        """Return the stated floor of E D, 2 sigma^2 / (alpha beta), given `meets_condition`."""
        return 2.0 * self.sigma**2 / (self.alpha * self.beta)

    @property
    def stated_gap_floor(self) -> Tensor:
        """Return the stated floor of E f - f*, sigma^2 / alpha, given `meets_condition`."""
        return self.sigma**2 / self.alpha

    def step_bound(self, distance2: Tensor) -> Tensor:
        """Return the bound on E D' after one step from D."""
        noise = (self.sigma / self.beta) ** 2
        return self.factor * distance2 + expansion(self.k_star, self.k) * noise

    def distance2_bound(self, start: Tensor, iterations: int) -> Tensor:
        """Return the bounds on E D after 0 to ``iterations`` steps, (iterations + 1, ...)."""
        bounds = [start + torch.zeros_like(self.factor)]
        for _ in range(iterations):
            bounds.append(self.step_bound(bounds[-1]))
        return torch.stack(bounds)


class Theorem1:
    """Stochastic IHT under the concentrated Polyak-Lojasiewicz condition (Section 3.1, A.2).

    f has a k*-sparse minimiser, is beta-smooth along sparse directions, and
    ||T_k*(grad f)||^2 >= (alpha/2) (f - f*). Then

        f' - f* <= (1 - alpha/8beta) (f - f*)                           without noise,
        E f' - f* <= (1 - alpha/16beta) (f - f*) + 0.51 sigma^2/beta    with noise,

    with step 1/beta for k >= 160 k* (beta/alpha)^2, and with step 1/(2beta) for
    k >= 576 k* (beta/alpha)^2. The floor of the second is below 16 sigma^2 / alpha. The proof
    identifies the minimiser nearest to theta with the sparse one; a unique minimiser or
    theta_0 = 0 may justify this, an arbitrary theta_0 does not.

    Raises:
        ValueError: not 0 < alpha, 0 < beta, or 1 <= k_star.
    """

    def __init__(self, alpha: Tensor | float, beta: Tensor | float, k_star: Tensor | float) -> None:
        self.alpha, self.beta, self.k_star = (
            torch.as_tensor(value, dtype=torch.float64) for value in (alpha, beta, k_star)
        )
        if not bool(((self.alpha > 0) & (self.beta > 0) & (self.k_star >= 1)).all()):
            raise ValueError("expected alpha > 0, beta > 0 and k_star >= 1")

    @property
    def enough(self) -> Tensor:
        """Return the least k for the step without noise, 160 k* (beta/alpha)^2."""
        return 160.0 * self.k_star * (self.beta / self.alpha) ** 2

    @property
    def enough_with_noise(self) -> Tensor:
        """Return the least k for the step with noise, 576 k* (beta/alpha)^2."""
        return 576.0 * self.k_star * (self.beta / self.alpha) ** 2

    @property
    def factor(self) -> Tensor:
        """Return the factor of the gap in a step without noise, 1 - alpha/(8 beta)."""
        return 1.0 - self.alpha / (8.0 * self.beta)

    def floor(self, sigma: Tensor | float) -> Tensor:
        """Return the stated floor of E f - f*, 16 sigma^2/alpha."""
        return 16.0 * torch.as_tensor(sigma, dtype=torch.float64) ** 2 / self.alpha


def largest_trap(kappa: float) -> float:
    """Return ((kappa - 1) / 2)^2: for any smaller k, IHT is stuck on some trap F3 with k* = 1.

    The bad point is a fixed point where rho q^2 / beta < p, and kappa = (beta / rho)^2 / q^2. The
    least kappa for k has rho^2 = q^2 + w, for which rho q^2 / beta is largest, and the w at which
    it equals p: k = w (kappa + 1) with (kappa + 1) = 4 (q^2 + w).
    """
    return ((kappa - 1.0) / 2.0) ** 2


def theorem3(
    beta: Tensor | float,
    k: Tensor | float,
    largest: Tensor | float,
    epsilon: Tensor | float,
    drop: Tensor | float,
    iterations: Tensor | int,
    sigma: float = 0.0,
) -> Tensor:
    """Return the bound on the mean of ||grad f(theta_t)||_inf^2 over T iterations (Theorem 3, A.4).

    Without noise and with step 1/beta, 2 beta (f_0 - f_T) / T + 2 beta^2 k B^2 + 2 epsilon^2; with
    noise and step 1/(2 beta), 8 beta (f_0 - f_T) / T + 16 beta^2 k B^2 + 8 epsilon^2 + 14 sigma^2,
    in expectation.

    Args:
        beta: smoothness along 2k-sparse directions.
        k: kept entries.
        largest: B, the bound on ||theta_t||_inf.
        epsilon: bound on ||grad f_S|| after optimisation on the support.
        drop: f_0 - f_T.
        iterations: T.
        sigma: square root of the variance of the stochastic gradient.
    """
    beta, k, largest, epsilon, drop = (
        torch.as_tensor(value, dtype=torch.float64) for value in (beta, k, largest, epsilon, drop)
    )
    factors = (2.0, 2.0, 2.0) if sigma == 0.0 else (8.0, 16.0, 8.0)
    terms = beta * drop / iterations, beta**2 * k * largest**2, epsilon**2
    total = sum(factor * term for factor, term in zip(factors, terms, strict=True))
    return total + 14.0 * torch.tensor(sigma, dtype=torch.float64) ** 2


def corollary1_floor(alpha: Tensor, beta: Tensor, lipschitz: Tensor | float = 1.0) -> Tensor:
    """Return the floor of f - f* of AC/DC with eta = 1/(2 beta), 16 (beta eta L)^2 / alpha.

    Corollary 1 (Section 3.2, A.2): damped passes over mini-batches, T_k, optimisation on the
    support. With step eta / (passes * parts), and each part L-Lipschitz and beta-smooth, a dense
    phase moves theta by at most eta L, so that the movement divided by eta differs from grad f by
    at most beta eta L = L/2. Put into Theorem 1 for sigma this gives 4 L^2/alpha.
    """
    eta = 1.0 / (2.0 * beta)
    return 16.0 * (beta * (eta * lipschitz)) ** 2 / alpha


def trivial_gap(alpha: Tensor, lipschitz: Tensor | float = 1.0) -> Tensor:
    """Return 2 L^2/alpha, which bounds f - f* at every theta by CPL and the Lipschitz property."""
    return 2.0 * lipschitz**2 / alpha
