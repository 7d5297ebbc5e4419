"""Corollary 1: dense passes over mini-batches as one gradient step, and what its floor is worth."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Counts, Factors
from theory.iht import Phases, on_support, per_trial, prune
from theory.measures import ROUNDING, geometric
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems import Gradient, SineSquares, Weight, sine_squares
from theory.rates import Corollary1, Theorem1
from theory.statistics import exact, mean


class Settings(experiment.Settings):
    """F2 as a mean of parts, from theta_0 = 0."""

    trials: int = Field(default=60, ge=2)
    """Problems."""
    n: int = Field(default=1000, ge=2)
    """Dimension of theta."""
    k_star: int = Field(default=4, ge=1)
    """Non-zeros of the minimiser, and rows of A."""
    k: int = Field(default=950, ge=1)
    """Kept entries, enough for the constants of the whole of f, not for those of its parts."""
    c: Weight = 1.2
    """Weight of the sine; f is not convex above 1."""
    tail: float = Field(default=0.1, ge=0)
    """Scale of the columns beyond the first k*."""
    passes: Counts = (1, 4)
    """Passes over the parts in a dense phase."""
    parts: Counts = (2, 4)
    """Mini-batches."""
    factors: Factors = (0.5, 1.0)
    """Of the step eta = factor/(2 beta)."""
    phases: int = Field(default=20, ge=1)
    """Of each trial."""
    sparse_steps: int = Field(default=4, ge=1)
    """Gradient steps of a sparse phase, where there is one."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.k <= self.n, "k", f"at most n = {self.n}")
        self.require(self.k_star <= self.k, "k_star", f"at most k = {self.k}")
        self.require(self.k_star < self.n, "k_star", f"less than n = {self.n}")
        self.require(self.parts[-1] <= self.k_star, "parts", f"at most k_star = {self.k_star}")
        return self


def run(settings: Settings) -> Outcome:
    """Compare dense phases with single gradient steps, and gaps with the floor."""
    outcome = Outcome("c1", settings)
    problem = sine_squares(
        *(settings.trials, settings.c, settings.tail, settings.n, settings.k_star),
        stream(settings.seed, "c1"),
    )
    steps = (0, settings.sparse_steps)
    sweep = itertools.product(settings.factors, settings.parts, settings.passes, steps)
    points = [_Point(*each) for each in sweep]
    found = {point: _alternate(outcome, settings, problem, point) for point in points}
    # All configurations on one problem count as one trial.
    movement, error, highest = (
        torch.cat([getattr(each, name) for each in found.values()], dim=-1).amax(-1)
        for name in ("movement", "error", "highest")
    )
    rises = [each.rises for point, each in found.items() if point.sparse_steps]
    floor = max((each.floor.flatten() for each in found.values()), key=lambda x: float(x.mean()))
    diverged = torch.cat([each.diverged for each in found.values()], dim=-1).any(-1)
    rounding = 1.0 + 1e-9
    outcome.state_never("movement", movement > rounding, diverged)
    outcome.state_never("mapping", error > rounding, diverged, {"largest": float(error.max())})
    outcome.state_never("sparse_phase", torch.cat(rises, dim=-1).sum(-1) > 0, diverged)
    outcome.state("floor", mean(floor), settings.trials, diverged)
    outcome.state_never("trivial", highest > rounding, diverged)
    bounds = Corollary1(problem.alpha, problem.beta, 1.0)
    outcome.state("vacuous", exact(float((bounds.floor / bounds.trivial_gap).mean())), 0)
    return outcome


class _Point(NamedTuple):
    """One configuration of the sweep."""

    factor: float
    parts: int
    passes: int
    sparse_steps: int


@dataclass
class _Watched:
    """A gradient that keeps the largest norm it had, (...)."""

    gradient: Gradient
    largest: Tensor

    def __call__(self, theta: Tensor) -> Tensor:
        found = self.gradient(theta)
        self.largest = torch.maximum(self.largest, found.square().sum(-1).sqrt())
        return found


@dataclass(frozen=True)
class _Found:
    """Measurements of trials (problems, 1)."""

    gaps: Tensor
    """After each phase, (phases + 1, ...)."""
    movement: Tensor
    """Largest movement of a dense phase over eta L."""
    error: Tensor
    """Largest error of the gradient mapping over beta eta L."""
    highest: Tensor
    """Largest gap at any iterate over 2 L^2/alpha."""
    floor: Tensor
    """Last gap over the floor 16 (beta eta L)^2/alpha."""
    rises: Tensor
    """Number of sparse phases that raise f."""
    diverged: Tensor


def _alternate(outcome: Outcome, settings: Settings, problem: SineSquares, point: _Point) -> _Found:
    """Alternate dense and sparse phases, and measure each dense phase against its bounds."""
    gradients, betas = problem.parts(point.parts)
    beta = betas.amax(-1)
    theta = torch.zeros_like(problem.minimiser)
    watched = [_Watched(gradient, torch.zeros_like(beta)) for gradient in gradients]
    eta = point.factor / (2.0 * beta)
    phases = Phases(eta, point.passes, point.sparse_steps, 1.0 / problem.beta)
    gaps = [problem.gap(theta)]
    highest = gaps[0]
    movement, error, rises = (torch.zeros_like(beta) for _ in range(3))
    for _ in range(settings.phases):
        moved = phases.dense(list(watched), theta)
        mapping = (theta - moved) / per_trial(eta) - problem.gradient(theta)
        movement = torch.maximum(movement, (theta - moved).square().sum(-1).sqrt())
        error = torch.maximum(error, mapping.square().sum(-1).sqrt())
        pruned = prune(moved, settings.k)
        theta = on_support(problem.gradient, pruned, phases.sparse_step_size, point.sparse_steps)
        before, after = problem.gap(pruned), problem.gap(theta)
        rises = rises + (after > before * (1.0 + 1e-12) + ROUNDING * gaps[0])
        # L has to hold wherever the gap is compared.
        for part in watched:
            for place in (moved, pruned, theta):
                part(place)
        highest = torch.stack([highest, problem.gap(moved), before, after]).amax(0)
        gaps.append(after)
    lipschitz = torch.stack([part.largest for part in watched]).amax(0)
    bounds = Corollary1(problem.alpha, beta, lipschitz)
    found = _Found(
        gaps=torch.stack(gaps),
        movement=movement / (eta * lipschitz),
        error=error / (beta * eta * lipschitz),
        highest=highest / bounds.trivial_gap,
        floor=gaps[-1] / (16.0 * (beta * eta * lipschitz) ** 2 / problem.alpha),
        rises=rises,
        diverged=~gaps[-1].isfinite(),
    )
    _record(outcome, settings, problem, point, found, bounds)
    if point.factor == settings.factors[-1]:
        _draw(outcome, settings, found, point)
    return found


def _record(
    outcome: Outcome,
    settings: Settings,
    problem: SineSquares,
    point: _Point,
    found: _Found,
    bounds: Corollary1,
) -> None:
    beta = bounds.beta
    outcome.record(
        beta.shape,
        problem,
        k_star=settings.k_star,
        k=settings.k,
        beta=beta,
        sigma=beta * (point.factor / (2.0 * beta)) * bounds.lipschitz,
        iterations=settings.phases,
        gap=found.gaps[-1],
        bound=bounds.floor,
        diverged=found.diverged,
        **point._asdict(),
        lipschitz=bounds.lipschitz,
        movement=found.movement,
        mapping_error=found.error,
        highest_gap=found.highest,
        rises=found.rises,
        meets_condition=settings.k
        >= Theorem1(problem.alpha, beta, settings.k_star).enough_with_noise,
    )


def _draw(outcome: Outcome, settings: Settings, found: _Found, point: _Point) -> None:
    label = f"{point.parts} parts"
    if point.sparse_steps == 0:
        outcome.draw_interval("error", label, point.passes, mean(found.error.flatten()))
        outcome.draw("error", "bound", "bound", point.passes, 1.0)
    if point.passes == settings.passes[-1]:
        line = f"{label}, {'with' if point.sparse_steps else 'without'} sparse phase"
        for phase, gaps in enumerate(found.gaps):
            outcome.draw("gap", line, "measured", phase, geometric(gaps.flatten()))
