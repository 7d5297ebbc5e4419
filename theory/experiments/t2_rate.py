"""Theorem 2 without noise: the contraction of one step, and iterations by condition number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Count, Counts, Kappas, Positive, Size, Trials
from theory.iht import Trace, iht, watch_errors
from theory.measures import ROUNDING, first_at_most, worst_ratio
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.quadratic import Quadratic, rotated_quadratics
from theory.rates import Theorem2
from theory.statistics import exact, slope

# Iterations in the plot of the gap.
_DRAWN = 60


class Settings(experiment.Settings):
    """Quadratics F1 from theta_0 = 0, every k/k* on the same problems."""

    trials: Trials = Field(10, description="Problems at each condition number.")
    n: Size = Field(128, description="Dimension of theta.")
    k_star: Count = Field(3, description="Non-zeros of the minimiser.")
    kappas: Kappas = Field((2.0, 4.0, 8.0, 16.0, 32.0, 64.0), description="Condition numbers.")
    k_ratios: Counts = Field((1, 2, 4, 8, 16, 32), description="k/k*.")
    iterations: Count = 500
    """Of each trial; 240 where k is as large as the theorem requires."""
    tolerance: Positive = Field(1e-8, description="The gap whose iteration is counted.")
    step_factor: Positive = 1.0
    """Times the theorem's step 1/beta; from 2 on gradient descent diverges."""
    wide_n: Count = Field(800, description="Dimension where k is as large as the theorem requires.")
    wide_trials: Size = Field(5, description="Problems of that dimension.")

    @property
    def wide_ratio(self) -> int:
        """k/k* as the theorem required at the least condition number."""
        alpha, beta = 1.0 / self.kappas[0], 1.0
        asked = math.ceil(64.0 * self.kappas[0] ** 2)
        # 1/kappa may be rounded to the other side.
        return asked if Theorem2(alpha, beta, 1, asked).meets_condition else asked + 1

    @property
    def extreme_ratios(self) -> tuple[int, int]:
        """The least and the largest k/k*, whose slopes are reported."""
        return self.k_ratios[0], self.k_ratios[-1]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.k_star <= self.n, "k_star", f"at most n = {self.n}")
        most = self.n // self.k_star
        self.require(most >= self.k_ratios[-1], "k_ratios", f"at most n / k_star = {most}")
        asked = self.k_star * self.wide_ratio
        self.require(self.wide_n > asked, "wide_n", f"more than 64 k_star kappa^2 = {asked}")
        return self


def run(settings: Settings) -> Outcome:
    """Compare iterates with the one-step bound, and count iterations."""
    outcome = Outcome("t2_rate", settings)
    kappas = [kappa for kappa in settings.kappas for _ in range(settings.trials)]
    generator = stream(settings.seed, "t2_rate")
    problem = rotated_quadratics(kappas, settings.n, settings.k_star, generator)
    found = _sweep(outcome, settings, problem, settings.k_ratios, settings.iterations)
    _draw_iterations(outcome, settings, found)
    wide = rotated_quadratics(
        [settings.kappas[0]] * settings.wide_trials, settings.wide_n, settings.k_star, generator
    )
    enough = _sweep(outcome, settings, wide, (settings.wide_ratio,), 4 * _DRAWN)

    # All k on one problem count as one trial.
    violated = torch.cat([(each["violations"] > 0).any(-1) for each in (found, enough)])
    lost = int(found["diverged"].sum() + enough["diverged"].sum())
    outcome.state_never("one_step", violated, lost)
    for place, ratio in enumerate(settings.k_ratios):
        if ratio in settings.extreme_ratios:
            growth = slope(found["kappa"][:, place], found["iterations"][:, place])
            words = {"ratio": ratio, "multiple": ratio if ratio > 1 else ""}
            diverged = found["diverged"][:, place]
            outcome.state("iterations_k%(ratio)s", growth, len(kappas), diverged, words)
    latest = exact(float((enough["iterations"] / enough["predicted_iterations"]).max()))
    outcome.state("iterations_enough", latest, settings.wide_trials, enough["diverged"])
    return outcome


def _sweep(
    outcome: Outcome,
    settings: Settings,
    problem: Quadratic,
    k_ratios: Sequence[int],
    iterations: int,
) -> dict[str, Tensor]:
    """Run IHT with every k on every problem, and record trials (problems, ks).

    Returns:
        Columns of trials.csv: iterations to the tolerance, measured and by the bound (NaN if it is
        not reached), steps that exceed the one-step bound, kappa; and the mask of diverged trials.
    """
    ratios = torch.tensor(k_ratios)
    k = ratios * settings.k_star
    count, _, n = problem.minimiser.shape
    start = torch.zeros((count, len(k), n), dtype=torch.float64)
    step_size = settings.step_factor / problem.beta
    trace = iht(problem.gradient, start, k, step_size, iterations, watch_errors(problem))
    gap, distance2 = trace.watched["gap"], trace.watched["distance2"]
    theorem = Theorem2(problem.alpha, problem.beta, settings.k_star, k)
    allowed = theorem.step_bound(distance2[:-1]) * (1.0 + 1e-9) + ROUNDING * distance2[0]
    bound = 0.5 * problem.beta * theorem.distance2_bound(distance2[0], iterations)
    found = {
        "iterations": first_at_most(gap, settings.tolerance),
        "kappa": problem.beta / problem.alpha + torch.zeros(gap.shape[1:]),
        "k_ratio": ratios,
        "predicted_iterations": first_at_most(bound, settings.tolerance),
        # Nothing follows a divergence.
        "violations": ((distance2[1:] > allowed) & distance2[1:].isfinite()).sum(0),
        "diverged": trace.diverged,
    }
    outcome.record(
        gap.shape[1:],
        problem,
        k_star=settings.k_star,
        k=k,
        gap=gap[-1],
        worst_ratio=worst_ratio(distance2),
        bound=theorem.factor,
        **found,
        meets_condition=theorem.meets_condition,
    )
    _draw_gaps(outcome, settings, problem, ratios, trace)
    return found


def _draw_gaps(
    outcome: Outcome, settings: Settings, problem: Quadratic, ratios: Tensor, trace: Trace
) -> None:
    """Draw the gap at the least condition number, with the bound where it is not vacuous."""
    mild = problem.alpha.squeeze(-1) == problem.alpha.max()
    gap, distance2 = trace.watched["gap"][:, mild], trace.watched["distance2"][:, mild]
    theorem = Theorem2(
        problem.alpha[mild], problem.beta[mild], settings.k_star, ratios * settings.k_star
    )
    bound = 0.5 * problem.beta[mild] * theorem.distance2_bound(distance2[0], _DRAWN)
    for place, ratio in enumerate(ratios.tolist()):
        line = rf"$k/k^\ast={ratio}$"
        outcome.draw_trace("gap", line, gap[: _DRAWN + 1, :, place])
        if bool((theorem.factor[:, place] < 1.0).all()):
            for t in range(_DRAWN + 1):
                outcome.draw("gap", line, "bound", t, float(bound[t, :, place].mean()))


def _draw_iterations(outcome: Outcome, settings: Settings, found: dict[str, Tensor]) -> None:
    """Draw the iterations by condition number, with the fitted power laws."""
    for place, ratio in enumerate(settings.k_ratios):
        line = rf"$k/k^\ast={ratio}$"
        reached = found["iterations"][:, place]
        for kappa, each in zip(settings.kappas, reached.reshape(-1, settings.trials), strict=True):
            outcome.draw_range("kappa", line, kappa, each, torch.mean)
        if ratio in settings.extreme_ratios:
            outcome.draw_fit("kappa", line, found["kappa"][:, place], reached)
