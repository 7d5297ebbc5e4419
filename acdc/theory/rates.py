"""What the theorems predict, as pure functions of the constants.

The formulas are reconstructed from the paper's proofs (Section 3.1, Appendix A).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from acdc.theory.problems import Array


@dataclass(frozen=True)
class Theorem2:
    """Theorem 2: stochastic IHT with step 1/beta under restricted strong convexity.

    With D = ||theta - theta*||^2, one step gives

        E D' <= (1 + sqrt(k*/k))^2 [(1 - alpha/beta) D + sigma^2 / beta^2]    for every k >= k*.

    The factor of D is below one only if k is large enough for the given beta/alpha; otherwise the
    inequality is true and says nothing about convergence (`is_vacuous`). The theorem asks for
    more, k >= 64 k* (beta/alpha)^2 (`meets_condition`), and then states the floors
    2 sigma^2 / (alpha beta) for E D and sigma^2 / alpha for E f - f*. In between, the recursion's
    own fixed point still bounds the floor, at a higher level.

    The step is a theorem for noise in all coordinates when f is beta-smooth in all directions,
    not only in sparse ones: the kept support depends on the noise.

    Raises ValueError unless 0 < alpha <= beta, 1 <= k_star <= k, sigma >= 0.
    """

    alpha: float
    beta: float
    k_star: int
    k: int
    sigma: float = 0.0

    def __post_init__(self) -> None:
        """Refuse constants that the theorem does not speak of."""
        if not 0.0 < self.alpha <= self.beta < math.inf:
            raise ValueError(f"alpha = {self.alpha}: expected 0 < alpha <= beta = {self.beta}")
        if not 1 <= self.k_star <= self.k:
            raise ValueError(f"k_star = {self.k_star}: expected 1 <= k_star <= k = {self.k}")
        if not 0.0 <= self.sigma < math.inf:
            raise ValueError(f"sigma = {self.sigma}: expected a finite number >= 0")

    @property
    def step_size(self) -> float:
        """The step for which the theorem is stated, 1/beta."""
        return 1.0 / self.beta

    @property
    def expansion(self) -> float:
        """How much T_k may enlarge a squared distance to theta*: (1 + sqrt(k*/k))^2 (Lemma 1)."""
        return (1.0 + math.sqrt(self.k_star / self.k)) ** 2

    @property
    def factor(self) -> float:
        """Factor of D in the one-step bound."""
        return self.expansion * (1.0 - self.alpha / self.beta)

    @property
    def is_vacuous(self) -> bool:
        """Whether the bound allows D to grow, and so promises nothing."""
        return self.factor >= 1.0

    @property
    def meets_condition(self) -> bool:
        """Whether k >= 64 k* (beta/alpha)^2, as the theorem asks."""
        return self.k >= 64.0 * self.k_star * (self.beta / self.alpha) ** 2

    @property
    def distance2_floor(self) -> float:
        """Fixed point of the one-step bound on E D; infinite where the bound is vacuous."""
        if self.is_vacuous:
            return math.inf
        return self.expansion * (self.sigma / self.beta) ** 2 / (1.0 - self.factor)

    @property
    def gap_floor(self) -> float:
        """The bound that `distance2_floor` implies for E f - f*, by smoothness."""
        return 0.5 * self.beta * self.distance2_floor

    @property
    def stated_distance2_floor(self) -> float:
        """The theorem's floor of E D, 2 sigma^2 / (alpha beta); needs `meets_condition`."""
        return 2.0 * self.sigma**2 / (self.alpha * self.beta)

    @property
    def stated_gap_floor(self) -> float:
        """The theorem's floor of E f - f*, sigma^2 / alpha; needs `meets_condition`."""
        return self.sigma**2 / self.alpha

    def step_bound(self, distance2: Array, variance: Array | None = None) -> Array:
        """Bound on E D' after one step from each given D.

        `variance` is E||g - grad f||^2 at each step where it is known; otherwise it is sigma^2.
        """
        noise2 = self.sigma**2 if variance is None else variance
        return self.factor * distance2 + self.expansion * noise2 / self.beta**2

    def distance2_bound(self, start: float, iterations: int) -> Array:
        """Bound on E D at iterations 0 .. iterations from D = start, (iterations + 1,)."""
        bound = np.empty(iterations + 1)
        bound[0] = start
        # A vacuous bound grows without limit; infinity is then the right value.
        with np.errstate(over="ignore"):
            for t in range(iterations):
                bound[t + 1] = self.step_bound(bound[t])
        return bound

    def gap_bound(self, start: float, iterations: int) -> Array:
        """Bound on E f - f* at iterations 0 .. iterations, (beta/2) times that on E D."""
        return 0.5 * self.beta * self.distance2_bound(start, iterations)

    def iterations_to_gap(self, start: float, gap: float) -> int | None:
        """Iterations after which the bound on E f - f* is at most `gap`; None if it never is."""
        excess = 2.0 * gap / self.beta - self.distance2_floor
        if excess <= 0.0:
            return None
        ahead = start - self.distance2_floor
        if ahead <= excess:
            return 0
        return math.ceil(math.log(excess / ahead) / math.log(self.factor)) if self.factor else 1
