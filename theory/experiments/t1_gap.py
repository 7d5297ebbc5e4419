"""Theorem 1's hypotheses: stuck for a bad start (F4), and vacuous for a unique minimiser (F1)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Count, Kappas, Level, Sigmas, Size, Trials
from theory.iht import Trace, hard_threshold, iht, watch_gap
from theory.measures import tail_mean
from theory.noise import gaussian, stream
from theory.outcome import Outcome
from theory.problems.base import Gradient
from theory.problems.quadratic import Quadratic, rotated_quadratics
from theory.problems.traps import OneCoordinate
from theory.rates import Theorem1
from theory.statistics import Interval, exact, mean

# The assumed constant of (1, alpha)-CPL of F4. Every alpha up to 4 is one, and the
# theorem requires alpha below beta = 1.
CPL = 0.9
_THEOREM = Theorem1(CPL, OneCoordinate.beta, 1)
_ENOUGH = math.ceil(float(_THEOREM.enough_with_noise))
# Starts and steps of the search for a spread-out gradient.
_STARTS, _STEPS = 16, 30


class Settings(experiment.Settings):
    """F4 from k entries R at wrong coordinates, and the best CPL constant of F1."""

    trials: Trials = Field(120, description="Random starts on F4 with each of the theorem's steps.")
    repetitions: Size = Field(12, description="With noise, at each R and sigma.")
    n: Annotated[Count, Field(ge=720)] = Field(
        1024, description="Dimension of F4; the theorem requires k >= 712."
    )
    distances: Sigmas = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.99, 1.0, 1.01, 1.1, 1.5, 2.0, 4.0)
    """R, the entries of the bad starts in the figure; R = 1 is a tie."""
    far: Annotated[Level, Field(gt=0.5)] = 2.0
    """R for the floor with noise, above the step 1/(2 beta)."""
    sigmas: Sigmas = (0.01, 0.03, 0.1)
    """Noise levels on F4; below 0.17 the theorem's floor is below 1/2, the gap of a bad start."""
    iterations: Annotated[Count, Field(ge=40)] = Field(80, description="On F4.")
    kappas: Kappas = Field((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), description="Of F1.")
    quadratic_n: Size = Field(100, description="Dimension of F1.")
    quadratic_trials: Size = Field(5, description="Problems F1 at each condition number.")
    k_star: Count = Field(5, description="Non-zeros of the minimisers of F1.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.distances[0] > 0.0, "distances", "numbers above 0")
        self.require(self.sigmas[0] > 0.0, "sigmas", "numbers above 0")
        self.require(
            self.k_star <= self.quadratic_n, "k_star", f"at most quadratic_n = {self.quadratic_n}"
        )
        return self


def run(settings: Settings) -> Outcome:
    """Start IHT badly on F4, and bound from below the k that F1 would need."""
    outcome = Outcome("t1_gap", settings)
    _stuck(outcome, settings)
    _sweep(outcome, settings)
    _noisy(outcome, settings)
    _vacuous(outcome, settings)
    return outcome


def wrong_start(r: Tensor, k: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return vectors (..., N) with k entries R of random sign, none of them at coordinate 1."""
    ranks = torch.rand((*r.shape, n - 1), dtype=torch.float64, generator=generator).argsort(-1)
    signs = 2.0 * torch.randint(0, 2, ranks.shape, generator=generator) - 1.0
    entries = torch.where(ranks < k.unsqueeze(-1), r.unsqueeze(-1) * signs, 0.0)
    return torch.cat([torch.zeros((*r.shape, 1), dtype=torch.float64), entries], dim=-1)


def _iterate(
    settings: Settings,
    gradient: Gradient,
    r: Tensor,
    k: Tensor,
    step: Tensor | float,
    generator: torch.Generator,
) -> Trace:
    """Run IHT on F4 from k wrong entries of size R, trials (any, trials)."""
    start = wrong_start(r, k, settings.n, generator)
    watch = watch_gap(OneCoordinate(settings.n))
    return iht(gradient, start, k, step, settings.iterations, watch)


def _record(
    outcome: Outcome, settings: Settings, gap: Tensor, trace: Trace, **columns: object
) -> None:
    """Record trials (any, trials) on F4."""
    outcome.record(
        gap.shape,
        OneCoordinate(settings.n),
        k_star=1,
        **({"alpha": CPL, "seed": torch.arange(gap.shape[1])} | columns),
        iterations=settings.iterations,
        gap=gap,
        diverged=trace.diverged,
    )


def _stuck(outcome: Outcome, settings: Settings) -> None:
    """Start at random without noise: trials (steps, trials), each step with its required k."""
    generator = stream(settings.seed, "t1_gap", "starts")
    problem = OneCoordinate(settings.n)
    steps = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    shape = (2, settings.trials)
    r = 10.0 ** (2.0 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1.0)
    k = torch.stack(
        [
            torch.randint(math.ceil(float(least)), settings.n, shape[1:], generator=generator)
            for least in (_THEOREM.enough, _THEOREM.enough_with_noise)
        ]
    )
    trace = _iterate(settings, problem.gradient, r, k, steps, generator)
    gap = trace.watched["gap"][-1]
    columns = {"subject": "random start", "r": r, "step": steps, "kappa": None, "asked": None}
    _record(outcome, settings, gap, trace, k=k, **columns)
    outcome.state_never("stuck", contradicts(gap, r, steps), trace.diverged)


def contradicts(gap: Tensor, r: Tensor, steps: Tensor) -> Tensor:
    """Return the mask of trials that are not stuck where, and only where, R exceeds the step.

    The gap after the last iteration and R are (steps, trials), the step sizes (steps, 1).
    """
    # A stuck gap is exactly 1/2; any other shrinks at least fourfold in each step.
    return ((gap == 0.5) != (r > steps)) | ((gap > 1e-12) != (r > steps))


def _sweep(outcome: Outcome, settings: Settings) -> None:
    """Draw the final gap against R: without noise, and at the largest sigma."""
    problem = OneCoordinate(settings.n)
    sigma = settings.sigmas[-1]
    distances = torch.tensor(settings.distances, dtype=torch.float64).unsqueeze(-1)
    r = distances.expand(-1, settings.repetitions)
    k = torch.full(r.shape, _ENOUGH)
    for line, level, step in (
        (r"no noise, $\eta=1/\beta$", 0.0, 1.0),
        (rf"$\sigma={sigma:g}$, $\eta=1/(2\beta)$", sigma, 0.5),
    ):
        generator = stream(settings.seed, "t1_gap", "sweep", str(level))
        gradient = gaussian(problem.gradient, level, generator)
        trace = _iterate(settings, gradient, r, k, step, generator)
        gap = tail_mean(trace.watched["gap"])
        columns: dict[str, Any] = {"k": k, "sigma": level, "bound": _THEOREM.floor(level)}
        columns |= {"subject": "sweep", "r": r, "step": step}
        _record(outcome, settings, gap, trace, **columns)
        for distance, each in zip(settings.distances, gap, strict=True):
            outcome.draw_range("stuck", line, distance, each, torch.mean)
    line = rf"$16\,\sigma^2/\alpha$, $\sigma={sigma:g}$"
    outcome.draw_level("stuck", line, settings.distances, float(_THEOREM.floor(sigma)))


def _noisy(outcome: Outcome, settings: Settings) -> None:
    """Run stochastic IHT with step 1/(2 beta) from far away: trials (sigmas, repetitions)."""
    problem = OneCoordinate(settings.n)
    sigmas = torch.tensor(settings.sigmas, dtype=torch.float64).unsqueeze(-1)
    shape = (len(settings.sigmas), settings.repetitions)
    r = torch.full(shape, settings.far, dtype=torch.float64)
    k = torch.full(shape, _ENOUGH)
    bound = _THEOREM.floor(sigmas)
    for name, where, support in (
        ("first", "on coordinate 1", problem.minimiser != 0.0),
        ("everywhere", "in all coordinates", None),
    ):
        generator = stream(settings.seed, "t1_gap", name)
        gradient = gaussian(problem.gradient, sigmas, generator, support)
        trace = _iterate(settings, gradient, r, k, 0.5, generator)
        gap = tail_mean(trace.watched["gap"])
        columns: dict[str, Any] = {"k": k, "sigma": sigmas, "bound": bound}
        columns |= {"subject": f"noise {where}", "r": r, "step": 0.5}
        _record(outcome, settings, gap, trace, **columns)
        ratios = [mean(each, settings.seed) for each in gap / bound]
        largest = max(ratios, key=lambda ratio: ratio.high)
        words = {"name": name, "where": where, "alpha": CPL}
        words["least"] = min(ratio.value for ratio in ratios)
        outcome.state("floor_%(name)s", largest, settings.repetitions, trace.diverged, words)


def least_cpl(problem: Quadratic, k_star: int, generator: torch.Generator) -> Tensor:
    """Return an upper bound on the best (k*, alpha)-CPL constant of quadratics, (problems, 1).

    The gradient may be any vector, and one with equal magnitudes is the least concentrated
    one. Of such u, that of the largest f - f* = u^T H^{-1} u / 2 is sought from random ones by
    u <- sign((H^{-1} - s) u), which never lessens it for s up to 1/beta; the constant is read off
    the problem at theta* + H^{-1} u.
    """
    inverse = torch.linalg.inv(problem.hessian)
    shape = (inverse.shape[0], _STARTS, inverse.shape[-1])
    # Without what u^T u = N makes the same for all u, fewer of them stay where they are.
    varying = inverse - torch.eye(shape[-1], dtype=torch.float64) / problem.beta.unsqueeze(-1)
    signs = 2.0 * torch.randint(0, 2, shape, generator=generator).double() - 1.0
    for _ in range(_STEPS):
        signs = torch.where(signs @ varying >= 0.0, 1.0, -1.0).to(signs)
    theta = problem.minimiser + signs @ inverse
    carried = hard_threshold(problem.gradient(theta), k_star).square().sum(-1)
    return (2.0 * carried / problem.gap(theta)).amin(-1, keepdim=True)


def _vacuous(outcome: Outcome, settings: Settings) -> None:
    """Bound from below the k that the theorem requires on F1, by condition number."""
    generator = stream(settings.seed, "t1_gap", "quadratics")
    n, k_star, trials = settings.quadratic_n, settings.k_star, settings.quadratic_trials
    kappas = [kappa for kappa in settings.kappas for _ in range(trials)]
    problem = rotated_quadratics(kappas, n, k_star, generator)
    alpha = least_cpl(problem, k_star, generator)
    # The curvature along one coordinate bounds every restricted beta from below.
    beta = problem.hessian.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    theorem = Theorem1(alpha, beta, k_star)
    part = theorem.enough / n
    columns: dict[str, Any] = {"k_star": k_star, "alpha": alpha, "beta": beta}
    columns |= {"seed": torch.arange(trials).repeat(len(settings.kappas)).unsqueeze(-1)}
    columns |= {"subject": "CPL", "kappa": torch.tensor(kappas, dtype=torch.float64).unsqueeze(-1)}
    columns |= {"asked": theorem.enough}
    outcome.record(part.shape, problem, **columns)
    for kappa, each in zip(settings.kappas, part.reshape(-1, trials), strict=True):
        outcome.draw_range("vacuous", "$k$ asked for, over $N$", kappa, each)
    outcome.draw_level("vacuous", "$k = N$", settings.kappas, 1.0)
    sphere = rotated_quadratics([1.0], n, k_star, generator)
    found = float(least_cpl(sphere, k_star, generator)) * n / (4.0 * k_star)
    # With room for rounding.
    outcome.state("cpl_sphere", Interval(found, found - 1e-12, found + 1e-12), 1)
    ends = {"mildest": settings.kappas[0], "steepest": settings.kappas[-1]}
    outcome.state("vacuous", exact(float(part.min())), part.numel(), words=ends)
