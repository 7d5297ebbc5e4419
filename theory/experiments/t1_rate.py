"""Theorem 1 without noise: one step's contraction from theta_0 = 0 and from another start (F2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Count, Factors, Level, Positive, Trials, Weights
from theory.iht import iht, watch_gap
from theory.measures import first_at_most, worst_ratio
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.base import sparse_vectors
from theory.problems.sine import sine_squares, typical_constants
from theory.rates import Theorem1
from theory.statistics import exact

# The largest N; the required k grows without limit as alpha falls.
LARGEST = 1_000_000
STARTS = ("$\\theta_0 = 0$", "random $k$-sparse $\\theta_0$")


class Settings(experiment.Settings):
    """Non-convex F2, each problem from both starts."""

    trials: Trials = Field(18, description="Problems at each weight of the sine and each k.")
    k_star: Count = Field(1, description="Non-zeros of the minimiser, and the number of squares.")
    epsilon: Annotated[Level, Field(le=1)] = 0.2
    """Size of the columns outside the minimiser's support, together."""
    weights: Weights = (0.5, 1.2, 2.0)
    """Weights c of the sine; f is not convex above 1."""
    k_parts: Factors = (0.02, 0.2, 1.0, 2.0)
    """k over what the theorem requires, 160 k* (beta/alpha)^2."""
    n_ratio: Annotated[Positive, Field(ge=2)] = Field(2.0, description="N by the largest k, about.")
    iterations: Count = Field(100, description="Of each trial.")
    tolerance: Positive = Field(1e-8, description="The gap down to which steps are compared.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.k_parts[-1] >= 1.0, "k_parts", "a largest part of at least 1")
        largest = max(map(self.dimension, self.weights))
        allowed = f"weights that require N of at most {LARGEST:,}, not {largest:,}"
        self.require(largest <= LARGEST, "weights", allowed)
        return self

    def dimension(self, weight: float) -> int:
        """Return N for a weight of the sine, from about what ||A|| will be."""
        theorem = Theorem1(*typical_constants(weight, self.epsilon), self.k_star)
        return math.ceil(self.n_ratio * self.k_parts[-1] * float(theorem.enough))


def run(settings: Settings) -> Outcome:
    """Compare every step with the bound, from both starts."""
    outcome = Outcome("t1_rate", settings)
    sweep = [(weight, part) for weight in settings.weights for part in settings.k_parts]
    found = {point: _iterate(outcome, settings, *point) for point in sweep}
    for weight in settings.weights:
        for place, start in enumerate(STARTS):
            for part in settings.k_parts:
                worst = found[weight, part]["worst_ratio"][:, place]
                worst = worst[~worst.isnan()]
                if len(worst):
                    outcome.draw_range("ratio", f"$c={weight:g}$, {start}", part, worst, torch.mean)
        for part in (settings.k_parts[0], settings.k_parts[-1]):
            bound = float(found[weight, part]["bound"].mean())
            outcome.draw("ratio", rf"$1-\alpha/8\beta$, $c={weight:g}$", "bound", part, bound)
    enough = [values for (_, part), values in found.items() if part >= 1.0]
    judge(outcome, settings, {key: torch.cat([each[key] for each in enough]) for key in enough[0]})
    return outcome


def _iterate(outcome: Outcome, settings: Settings, weight: float, part: float) -> dict[str, Tensor]:
    """Run IHT with step 1/beta, and return measurements of trials (problems, starts)."""
    generator = stream(settings.seed, "t1_rate", str(weight), str(part))
    n = settings.dimension(weight)
    problem = sine_squares(settings.trials, weight, settings.epsilon, n, settings.k_star, generator)
    theorem = Theorem1(problem.alpha_up_to_beta, problem.beta, settings.k_star)
    # Enough for the least favourable problem.
    k = max(settings.k_star, math.ceil(part * float(theorem.enough.max())))
    start = torch.zeros((settings.trials, 2, n), dtype=torch.float64)
    start[:, 1] = sparse_vectors(settings.trials, n, k, generator)
    step_size = 1.0 / problem.beta
    trace = iht(problem.gradient, start, k, step_size, settings.iterations, watch_gap(problem))
    gap = trace.watched["gap"]
    found = {
        "gap": gap[-1],
        "worst_ratio": worst_ratio(gap, settings.tolerance / gap[0]),
        "bound": theorem.factor,
        "diverged": trace.diverged,
    }
    outcome.record(
        gap.shape[1:],
        problem,
        k_star=settings.k_star,
        k=k,
        alpha=theorem.alpha,
        iterations=first_at_most(gap, settings.tolerance),
        **found,
        weight=weight,
        k_part=part,
        random_start=torch.arange(2),
        enough=theorem.enough,
    )
    if part == min(each for each in settings.k_parts if each >= 1.0):
        _draw_gap(outcome, weight, gap, theorem)
    # Above the bound of as many steps, with room for the rounding error of a gap of zero.
    bound = theorem.factor**settings.iterations * gap[0]
    return found | {"late": gap[-1] > bound.clamp(settings.tolerance)}


def _draw_gap(outcome: Outcome, weight: float, gap: Tensor, theorem: Theorem1) -> None:
    """Draw the gap against the iteration at the least k that the theorem allows."""
    bound = gap[0].amax() * theorem.factor.amax() ** torch.arange(len(gap))
    for place, start in enumerate(STARTS):
        outcome.draw_trace("gap", f"$c={weight:g}$, {start}", gap[:, :, place])
    for t in range(len(gap)):
        outcome.draw("gap", f"bound, $c={weight:g}$", "bound", t, float(bound[t]))


def judge(outcome: Outcome, settings: Settings, found: Mapping[str, Tensor]) -> None:
    """Judge the claims by trials (problems, starts) whose k is at least the required one."""
    worst, factor, diverged = found["worst_ratio"], found["bound"], found["diverged"]
    # A trial in which no step was compared supports nothing.
    known = ~worst.isnan()
    settings.require(bool(known.any(0).all()), "tolerance", "less, such that steps are compared")
    exceeds = worst > factor * (1.0 + 1e-9)
    from_zero, any_start = (exceeds[known[:, place], place] for place in range(2))
    # The fraction of the gap that each trial's slowest step removes, over the promised one.
    speed = ((1.0 - worst) / (1.0 - factor))[known[:, 0], 0]
    weights = {"lightest": settings.weights[0], "heaviest": settings.weights[-1]}
    ends = {"worst": float(worst[known[:, 0], 0].max()), "least_bound": float(factor.min())}
    outcome.state_never("from_zero", from_zero, diverged[:, 0], weights | ends)
    outcome.state("speed", exact(float(speed.min())), len(speed), diverged[:, 0], weights)
    outcome.state_never("any_start", any_start, diverged[:, 1], weights)
    left = {"left": float(found["gap"][:, 1].max())}
    late = found["late"][:, 1]
    outcome.state_never("any_start_converges", late, diverged[:, 1], weights | left)
