"""Corollary 1: dense passes over mini-batches as one gradient step, and what its floor is worth."""

from __future__ import annotations

import itertools
from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Count, Counts, Factors, Level, Size, Trials, Weight
from theory.iht import dense_phase, hard_threshold, on_support, per_trial
from theory.measures import ROUNDING, geometric
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.base import Gradient
from theory.problems.sine import SineSquares, sine_squares
from theory.rates import Theorem1, corollary1_floor, trivial_gap
from theory.statistics import exact, mean


class Settings(experiment.Settings):
    """F2 as a mean of parts, from theta_0 = 0."""

    trials: Trials = Field(60, description="Problems.")
    n: Size = Field(1000, description="Dimension of theta.")
    k_star: Count = Field(4, description="Non-zeros of the minimiser, and rows of A.")
    k: Count = Field(950, description="Kept entries; enough for f, not for its parts.")
    c: Weight = Field(1.2, description="Weight of the sine; f is not convex above 1.")
    tail: Level = Field(0.1, description="Scale of the columns beyond the first k*.")
    passes: Counts = Field((1, 4), description="Passes over the parts in a dense phase.")
    parts: Counts = Field((2, 4), description="Mini-batches.")
    factors: Factors = Field((0.5, 1.0), description="Of the step eta = factor/(2 beta).")
    phases: Count = Field(20, description="Of each trial.")
    sparse_steps: Count = Field(4, description="Gradient steps of a sparse phase.")

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
        torch.cat([each[name] for each in found.values()], dim=-1).amax(-1)
        for name in ("movement", "mapping_error", "highest_gap")
    )
    rises = [each["rises"] for point, each in found.items() if point.sparse_steps]
    floors = [(each["gap"] / each["bound"]).flatten() for each in found.values()]
    floor = max(floors, key=lambda x: float(x.mean()))
    diverged = torch.cat([~each["gap"].isfinite() for each in found.values()], dim=-1).any(-1)
    rounding = 1.0 + 1e-9
    outcome.state_never("movement", movement > rounding, diverged)
    outcome.state_never("mapping", error > rounding, diverged, {"largest": float(error.max())})
    outcome.state_never("sparse_phase", torch.cat(rises, dim=-1).sum(-1) > 0, diverged)
    outcome.state("floor", mean(floor), settings.trials, diverged)
    outcome.state_never("trivial", highest > rounding, diverged)
    ratio = corollary1_floor(problem.alpha, problem.beta) / trivial_gap(problem.alpha)
    outcome.state("vacuous", exact(float(ratio.mean())), 0)
    return outcome


class _Point(NamedTuple):
    """One configuration of the sweep."""

    factor: float
    parts: int
    passes: int
    sparse_steps: int


class _Watched:
    """A gradient that keeps the largest norm it had, (...)."""

    def __init__(self, gradient: Gradient, shape: torch.Size) -> None:
        self.gradient = gradient
        self.largest = torch.zeros(shape, dtype=torch.float64)

    def __call__(self, theta: Tensor) -> Tensor:
        found = self.gradient(theta)
        self.largest = torch.maximum(self.largest, found.square().sum(-1).sqrt())
        return found


def _alternate(
    outcome: Outcome, settings: Settings, problem: SineSquares, point: _Point
) -> dict[str, Tensor]:
    """Alternate dense and sparse phases, and measure each dense phase against its bounds.

    Returns:
        The columns of trials.csv that are measured, trials (problems, 1).
    """
    gradients, betas = problem.parts(point.parts)
    beta = betas.amax(-1)
    theta = torch.zeros_like(problem.minimiser)
    watched = [_Watched(gradient, beta.shape) for gradient in gradients]
    eta = point.factor / (2.0 * beta)
    gaps = [problem.gap(theta)]
    highest = gaps[0]
    movement, error, rises = (torch.zeros_like(beta) for _ in range(3))
    for _ in range(settings.phases):
        moved = dense_phase(watched, theta, eta, point.passes)
        mapping = (theta - moved) / per_trial(eta) - problem.gradient(theta)
        movement = torch.maximum(movement, (theta - moved).square().sum(-1).sqrt())
        error = torch.maximum(error, mapping.square().sum(-1).sqrt())
        pruned = hard_threshold(moved, settings.k)
        theta = on_support(problem.gradient, pruned, 1.0 / problem.beta, point.sparse_steps)
        before, after = problem.gap(pruned), problem.gap(theta)
        rises = rises + (after > before * (1.0 + 1e-12) + ROUNDING * gaps[0])
        # L has to hold wherever the gap is compared.
        for part in watched:
            for place in (moved, pruned, theta):
                part(place)
        highest = torch.stack([highest, problem.gap(moved), before, after]).amax(0)
        gaps.append(after)
    lipschitz = torch.stack([part.largest for part in watched]).amax(0)
    found = {
        "gap": gaps[-1],
        "bound": 16.0 * (beta * eta * lipschitz) ** 2 / problem.alpha,
        "lipschitz": lipschitz,
        "movement": movement / (eta * lipschitz),
        "mapping_error": error / (beta * eta * lipschitz),
        "highest_gap": highest / trivial_gap(problem.alpha, lipschitz),
        "rises": rises,
    }
    enough = Theorem1(problem.alpha, beta, settings.k_star).enough_with_noise
    outcome.record(
        beta.shape,
        problem,
        k_star=settings.k_star,
        k=settings.k,
        beta=beta,
        sigma=beta * eta * lipschitz,
        iterations=settings.phases,
        diverged=~gaps[-1].isfinite(),
        **point._asdict() | found,
        meets_condition=settings.k >= enough,
    )
    if point.factor == settings.factors[-1]:
        _draw(outcome, settings, found["mapping_error"], gaps, point)
    return found


def _draw(
    outcome: Outcome, settings: Settings, error: Tensor, gaps: list[Tensor], point: _Point
) -> None:
    label = f"{point.parts} parts"
    if point.sparse_steps == 0:
        outcome.draw_interval("error", label, point.passes, mean(error.flatten()))
        outcome.draw("error", "bound", "bound", point.passes, 1.0)
    if point.passes == settings.passes[-1]:
        line = f"{label}, {'with' if point.sparse_steps else 'without'} sparse phase"
        for phase, gap in enumerate(gaps):
            outcome.draw("gap", line, "measured", phase, geometric(gap.flatten()))
