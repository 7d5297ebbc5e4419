"""Theorem 2 without noise: the contraction of one step, and iterations by condition number."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Counts, Kappas, Outcome
from theory.iht import Trace, iht
from theory.measures import ROUNDING, first_at_most, geometric, worst_ratio
from theory.noise import stream
from theory.problems import Quadratic, rotated_quadratics
from theory.rates import Theorem2
from theory.statistics import Statement, exact, never, slope

# Longer than that a plot of the gap is not drawn.
_DRAWN = 60


class Settings(experiment.Settings):
    """Quadratics F1 from theta_0 = 0, every k/k* on the same problems."""

    trials: int = Field(default=10, ge=2)
    """Problems at each condition number."""
    n: int = Field(default=128, ge=2)
    """Dimension of theta."""
    k_star: int = Field(default=3, ge=1)
    """Non-zeros of the minimiser."""
    kappas: Kappas = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    """Condition numbers."""
    k_ratios: Counts = (1, 2, 4, 8, 16, 32)
    """k/k*."""
    iterations: int = Field(default=500, ge=1)
    """Of each trial; 240 where k is as large as the theorem asks."""
    tolerance: float = Field(default=1e-8, gt=0)
    """The gap whose iteration is counted."""
    step_factor: float = Field(default=1.0, gt=0)
    """Times the theorem's step 1/beta; from 2 on gradient descent diverges."""
    wide_n: int = Field(default=800, ge=1)
    """Dimension where k is as large as the theorem asks."""
    wide_trials: int = Field(default=5, ge=2)
    """Problems of that dimension."""

    @property
    def wide_ratio(self) -> int:
        """k/k* as the theorem asks at the least condition number."""
        alpha, beta = 1.0 / self.kappas[0], 1.0
        asked = math.ceil(64.0 * self.kappas[0] ** 2)
        # 1/kappa may be rounded to the other side.
        return asked if Theorem2(alpha, beta, 1, asked).meets_condition else asked + 1

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
    outcome = Outcome()
    kappas = [kappa for kappa in settings.kappas for _ in range(settings.trials)]
    generator = stream(settings.seed, "t2_rate")
    problem = rotated_quadratics(kappas, settings.n, settings.k_star, generator)
    ratios = torch.tensor(settings.k_ratios)
    trace = _iterate(settings, problem, ratios * settings.k_star, settings.iterations)
    found = _record(outcome, settings, problem, ratios, trace)
    _draw_gaps(outcome, settings, problem, ratios, trace)
    _draw_iterations(outcome, settings, found)

    wide = rotated_quadratics(
        [settings.kappas[0]] * settings.wide_trials, settings.wide_n, settings.k_star, generator
    )
    enough = torch.tensor([settings.wide_ratio])
    wide_trace = _iterate(settings, wide, enough * settings.k_star, 4 * _DRAWN)
    wide_found = _record(outcome, settings, wide, enough, wide_trace)
    _draw_gaps(outcome, settings, wide, enough, wide_trace)

    # Of one problem all k are one trial.
    violated = torch.cat([(each["violations"] > 0).any(-1) for each in (found, wide_found)])
    diverged = int(trace.diverged.sum() + wide_trace.diverged.sum())
    outcome.statements = [
        never(
            id="one_step",
            source="Theorem 2, one step",
            claim=r"$D_{t+1} \le (1+\sqrt{k^\ast/k})^2 (1-\alpha/\beta)\, D_t$ for every "
            r"$k \ge k^\ast$, where $D=\|\theta-\theta^\ast\|^2$",
            measure="problems in which a step exceeds it at some $k$ (F1, no noise)",
            violations=int(violated.sum()),
            trials=len(violated),
            diverged=diverged,
            note="Vacuous as a rate where the factor is 1 or more, and true all the same.",
        ),
        *(
            Statement(
                id=f"iterations_k{ratio}",
                source="Theorem 2, number of iterations",
                claim=r"$O((\beta/\alpha)\ln(1/\varepsilon))$ iterations, at "
                + rf"$k = {ratio if ratio > 1 else ''}k^\ast$",
                measure=r"slope of iterations to a gap of "
                rf"{settings.tolerance:g} against $\beta/\alpha$, log-log",
                relation="at most",
                predicted=1.0,
                measured=slope(*_points(settings, found, place)),
                trials=found["reached"][:, place].numel(),
                diverged=int(trace.diverged[:, place].sum()),
                note="This k is below what the theorem asks for.",
            )
            for place, ratio in enumerate(settings.k_ratios)
            if ratio in _extremes(settings)
        ),
        Statement(
            id="iterations_enough",
            source="Theorem 2, number of iterations",
            claim=r"no later than the bound $(1+\sqrt{k^\ast/k})^{2t}(1-\alpha/\beta)^t$, at "
            r"$k \ge 64 k^\ast (\beta/\alpha)^2$",
            measure=f"iterations to a gap of {settings.tolerance:g}, measured/predicted; the "
            "largest",
            relation="at most",
            predicted=1.0,
            measured=exact(float((wide_found["reached"] / wide_found["predicted"]).max())),
            trials=settings.wide_trials,
            diverged=int(wide_trace.diverged.sum()),
        ),
    ]
    return outcome


def _iterate(settings: Settings, problem: Quadratic, k: Tensor, iterations: int) -> Trace:
    """Run IHT with every k on every problem: trials (problems, ks)."""
    start = torch.zeros((problem.minimiser.shape[0], len(k), problem.minimiser.shape[-1])).double()

    def watch(theta: Tensor) -> dict[str, Tensor]:
        distance2 = (theta - problem.minimiser).square().sum(-1)
        return {"gap": problem.gap(theta), "distance2": distance2}

    step_size = settings.step_factor / problem.beta
    return iht(problem.gradient, start, k, step_size, iterations, watch)


def _record(
    outcome: Outcome, settings: Settings, problem: Quadratic, ratios: Tensor, trace: Trace
) -> dict[str, Tensor]:
    """Add the trials' rows, and return what the statements need of them, (problems, ratios)."""
    gap, distance2 = trace.watched["gap"], trace.watched["distance2"]
    theorem = Theorem2(problem.alpha, problem.beta, settings.k_star, ratios * settings.k_star)
    allowed = theorem.step_bound(distance2[:-1]) * (1.0 + 1e-9) + ROUNDING * distance2[0]
    # Nothing follows a divergence.
    violations = ((distance2[1:] > allowed) & distance2[1:].isfinite()).sum(0)
    reached = first_at_most(gap, settings.tolerance)
    bound = 0.5 * problem.beta * theorem.distance2_bound(distance2[0], len(gap) - 1)
    # A bound that gets there later than the trial lasted, or never, predicts nothing.
    predicted = first_at_most(bound, settings.tolerance)
    shape = gap.shape[1:]
    found = {
        "reached": reached,
        "predicted": predicted,
        "violations": violations,
        "kappa": problem.beta / problem.alpha + torch.zeros(shape),
    }
    seeds = torch.arange(shape[0]).unsqueeze(-1)
    outcome.trials += experiment.rows(
        {
            "family": problem.family,
            "n": problem.minimiser.shape[-1],
            "k_star": settings.k_star,
            "k": ratios * settings.k_star,
            "alpha": problem.alpha,
            "beta": problem.beta,
            "sigma": 0.0,
            "seed": seeds,
            "iterations": reached,
            "gap": gap[-1],
            "worst_ratio": worst_ratio(distance2),
            "bound": theorem.factor,
            "status": trace.diverged,
            "kappa": found["kappa"],
            "k_ratio": ratios,
            "predicted_iterations": predicted,
            "violations": violations,
            "meets_condition": theorem.meets_condition,
        },
        shape,
    )
    return found


def _points(
    settings: Settings, found: dict[str, Tensor], place: int
) -> tuple[list[float], list[float]]:
    """Return condition numbers and iterations of the trials at one k/k*."""
    return found["kappa"][:, place].tolist(), found["reached"][:, place].tolist()


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
        for t in range(min(_DRAWN, len(gap) - 1) + 1):
            each = gap[t, :, place]
            outcome.draw(
                *("gap", rf"$k/k^\ast={ratio}$", "measured", t, geometric(each)),
                *(float(each.min()), float(each.max())),
            )
        if not bool(theorem.is_vacuous[:, place].any()):
            for t in range(_DRAWN + 1):
                y = float(bound[t, :, place].mean())
                outcome.draw("gap", rf"$k/k^\ast={ratio}$", "bound", t, y)


def _draw_iterations(outcome: Outcome, settings: Settings, found: dict[str, Tensor]) -> None:
    """Draw the iterations by condition number, with the fitted power laws."""
    for place, ratio in enumerate(settings.k_ratios):
        label = rf"$k/k^\ast={ratio}$"
        kappas, counts = _points(settings, found, place)
        for kappa in settings.kappas:
            each = [y for x, y in zip(kappas, counts, strict=True) if abs(x - kappa) < 1e-6 * kappa]
            middle = sum(each) / len(each)
            outcome.draw("kappa", label, "measured", kappa, middle, min(each), max(each))
        if ratio in _extremes(settings):
            outcome.draw_fit("kappa", label, kappas, counts)


def _extremes(settings: Settings) -> tuple[int, int]:
    """Return the least and the largest k/k*, whose slopes are reported."""
    return settings.k_ratios[0], settings.k_ratios[-1]
