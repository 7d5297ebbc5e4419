"""Theorem 1 with noise: the floor of the gap against the noise's variance (F2)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator

from theory import experiment
from theory.experiment import Count, Level, Positive, Sigmas, Trials, Weight
from theory.iht import iht, watch_gap
from theory.measures import tail_mean
from theory.noise import gaussian, stream
from theory.outcome import Outcome
from theory.problems.sine import SineSquares, sine_squares, typical_constants
from theory.rates import Theorem1
from theory.statistics import mean, slope

# The largest N; the required k grows without limit as alpha falls.
LARGEST = 1_000_000
# Supports of the noise, by the names in the statements' ids.
SUPPORTS = {"support": r"noise on $S^\ast$", "everywhere": "noise in all coordinates"}


class Settings(experiment.Settings):
    """Non-convex F2 from theta_0 = 0, with Gaussian noise of its own at every sigma."""

    trials: Trials = Field(12, description="Problems, the same at every sigma.")
    k_star: Count = Field(2, description="Non-zeros of the minimiser, and the number of squares.")
    epsilon: Annotated[Level, Field(le=1)] = 0.2
    """Size of the columns outside the minimiser's support, together."""
    weight: Weight = Field(1.2, description="Weight c of the sine; f is not convex above 1.")
    sigmas: Sigmas = Field((0.01, 0.0316, 0.1, 0.316, 1.0), description="Noise levels.")
    n_ratio: Annotated[Positive, Field(ge=2)] = Field(2.0, description="N/k, about.")
    iterations: Annotated[Count, Field(ge=4)] = 120
    """Of each trial; the floor is the mean gap over the last half."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fits = len(self.sigmas) >= 3 and self.sigmas[0] > 0.0
        self.require(fits, "sigmas", "at least three, each above 0")
        allowed = f"a weight that requires N of at most {LARGEST:,}, not {self.dimension:,}"
        self.require(self.dimension <= LARGEST, "weight", allowed)
        return self

    @property
    def dimension(self) -> int:
        """N, from about what ||A|| will be."""
        theorem = Theorem1(*typical_constants(self.weight, self.epsilon), self.k_star)
        return math.ceil(self.n_ratio * float(theorem.enough_with_noise))


def run(settings: Settings) -> Outcome:
    """Measure the floor for noise on the minimiser's support and in all coordinates."""
    outcome = Outcome("t1_floor", settings)
    problem = sine_squares(
        *(settings.trials, settings.weight, settings.epsilon, settings.dimension, settings.k_star),
        stream(settings.seed, "t1_floor", "problems"),
    )
    theorem = Theorem1(problem.alpha_up_to_beta, problem.beta, settings.k_star)
    for where in SUPPORTS:
        _measure(outcome, settings, problem, theorem, where)
    for sigma in settings.sigmas:
        bound = float(theorem.floor(sigma).mean())
        outcome.draw("floor", r"$16\,\sigma^2/\alpha$", "bound", sigma**2, bound)
    return outcome


def _measure(
    outcome: Outcome, settings: Settings, problem: SineSquares, theorem: Theorem1, where: str
) -> None:
    """Run trials (problems, sigmas), and judge their floors."""
    sigmas = torch.tensor(settings.sigmas, dtype=torch.float64)
    support = problem.minimiser != 0.0 if where == "support" else None
    generator = stream(settings.seed, "t1_floor", where)
    gradient = gaussian(problem.gradient, sigmas, generator, support)
    start = torch.zeros((settings.trials, len(sigmas), settings.dimension), dtype=torch.float64)
    k = math.ceil(float(theorem.enough_with_noise.max()))
    step_size = 1.0 / (2.0 * problem.beta)
    trace = iht(gradient, start, k, step_size, settings.iterations, watch_gap(problem))
    floor = tail_mean(trace.watched["gap"])
    bound = theorem.floor(sigmas)
    columns: dict[str, Any] = {"k_star": settings.k_star, "k": k, "alpha": theorem.alpha}
    columns |= {"sigma": sigmas, "iterations": settings.iterations, "gap": floor, "bound": bound}
    columns |= {"noise": where, "enough": theorem.enough_with_noise}
    outcome.record(floor.shape, problem, diverged=trace.diverged, **columns)
    line = SUPPORTS[where]
    for sigma, each in zip(settings.sigmas, floor.mT, strict=True):
        outcome.draw_interval("floor", line, sigma**2, mean(each, settings.seed))
    squares = sigmas.square().expand_as(floor).flatten()
    outcome.draw_fit("floor", line, squares, floor.flatten())
    growth = slope(squares, floor.flatten())
    outcome.state(f"slope_{where}", growth, floor.numel(), trace.diverged, {"noise": line})
    ratios = [mean(each, settings.seed) for each in (floor / bound).mT]
    largest = max(ratios, key=lambda ratio: ratio.high)
    words = {"where": where, "noise": line}
    outcome.state("floor_%(where)s", largest, settings.trials, trace.diverged, words)
