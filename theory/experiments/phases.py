"""AC/DC's phases: whether the sparse phase ever hurts, and how long the dense phase should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import (
    Ascending,
    Condition,
    Count,
    Counts,
    Positive,
    Several,
    Size,
    Steps,
    Trials,
)
from theory.iht import dense_phase, hard_threshold, on_support
from theory.measures import ROUNDING, first_at_most
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems import Problem
from theory.problems.quadratic import rotated_quadratics
from theory.problems.regression import gaussian_least_squares
from theory.problems.traps import Trap
from theory.statistics import Interval, geometric_mean, mean, proportion


class Settings(experiment.Settings):
    """F1, F1' with fewer rows than columns, and F3, from theta_0 = 0 with step 1/beta."""

    trials: Trials = Field(30, description="Problems of each family.")
    n: Size = Field(96, description="Dimension of theta, F1 and F1'.")
    m: Count = Field(24, description="Rows of F1'.")
    k_star: Count = Field(4, description="Non-zeros of the minimiser, F1 and F1'.")
    k: Count = Field(6, description="Kept entries.")
    kappa: Condition = Field(32.0, description="Condition number of F1.")
    dense_steps: Counts = (1, 4, 16, 64)
    """Gradient steps of a dense phase, all of the same size 1/beta."""
    sparse_steps: Annotated[tuple[Steps, ...], Several, Ascending] = (0, 4, 16, 64)
    """Gradient steps of a sparse phase; the first is what the others are compared with."""
    steps: Count = Field(384, description="All gradient steps of a trial.")
    success: Positive = 1e-6
    """Part of the first gap below which a trial has found the minimiser."""
    phases: Count = Field(12, description="Phases where their number is the same.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.k <= self.n, "k", f"at most n = {self.n}")
        self.require(self.k_star <= self.k, "k_star", f"at most k = {self.k}")
        some = self.sparse_steps[0] == 0 and len(self.sparse_steps) > 1
        self.require(some, "sparse_steps", "0, no sparse phase, and more")
        longest = self.dense_steps[-1] + self.sparse_steps[-1]
        self.require(self.steps >= longest, "steps", f"{longest} or more, one round of phases,")
        return self


def run(settings: Settings) -> Outcome:
    """Compare lengths of phases at equal numbers of phases, and of gradient steps."""
    outcome = Outcome("phases", settings)
    # All lengths of phases on one problem count as one trial.
    risen: list[Tensor] = []
    harmed: list[Tensor] = []
    steps: dict[tuple[str, int, int], Tensor] = {}
    for problem in _problems(settings):
        rises: list[Tensor] = []
        hurt: list[Tensor] = []
        rounding = ROUNDING * problem.gap(torch.zeros_like(problem.minimiser)).squeeze(-1)
        for dense in settings.dense_steps:
            after = []
            for sparse in settings.sparse_steps:
                gaps, rose = _alternate(settings, problem, dense, sparse)
                after.append(gaps[settings.phases])
                key = problem.family, dense, sparse
                steps[key] = _record(outcome, settings, problem, dense, sparse, gaps)
                if sparse:
                    rises.append(rose)
            hurt += [each > after[0] * (1.0 + 1e-9) + rounding for each in after[1:]]
        risen.append(torch.stack(rises).any(0))
        harmed.append(torch.stack(hurt).any(0))
    outcome.state_never("end_of_phase", torch.cat(risen))
    outcome.state_never("end_of_run", torch.cat(harmed))
    _judge_trade_off(outcome, settings, steps)
    return outcome


def _judge_trade_off(
    outcome: Outcome, settings: Settings, steps: Mapping[tuple[str, int, int], Tensor]
) -> None:
    """Judge the cost of a long dense phase, and the use of a sparse phase after it.

    The gradient steps to the minimiser are given by family, dense and sparse steps; they are NaN
    where it was not reached.
    """
    dense, sparse = settings.dense_steps, settings.sparse_steps
    longer = steps["F1", dense[-1], 0] / steps["F1", dense[0], 0]
    ends = {"longest": dense[-1], "shortest": dense[0]}
    outcome.state("length", geometric_mean(longer), settings.trials, words=ends)
    long = dense[max(0, len(dense) - 2)]
    without, found = (steps["F1'", long, each].isfinite().double() for each in (0, sparse[-1]))
    words = {"sparse": sparse[-1], "dense": long}
    outcome.state("rescue", mean(found - without), settings.trials, words=words)


def _problems(settings: Settings) -> tuple[Problem, ...]:
    """Return the problems, each (trials, 1, N)."""
    count, n, k_star = settings.trials, settings.n, settings.k_star
    generator = stream(settings.seed, "phases")
    quadratics = rotated_quadratics([settings.kappa] * count, n, k_star, generator)
    regressions = gaussian_least_squares(count, n, settings.m, k_star, generator)
    # From traps that hold to traps that do not, all with the same overlap.
    rho = 10.0 ** torch.linspace(-1.0, 0.0, count, dtype=torch.float64)
    return quadratics, regressions, Trap(rho.unsqueeze(-1), 0.6, settings.k)


def _alternate(
    settings: Settings, problem: Problem, dense: int, sparse: int
) -> tuple[Tensor, Tensor]:
    """Return gaps after each round (rounds + 1, trials), and whether a sparse phase raised f."""
    size = 1.0 / problem.beta
    theta = torch.zeros_like(problem.minimiser)
    gaps = [problem.gap(theta)]
    rose = torch.zeros_like(gaps[0], dtype=torch.bool)
    for _ in range(max(settings.phases, settings.steps // (dense + sparse))):
        # Undamped, as AC/DC trains: the movement of a dense phase grows with its length.
        moved = dense_phase([problem.gradient], theta, dense * size, dense)
        theta = hard_threshold(moved, settings.k)
        before = problem.gap(theta)
        theta = on_support(problem.gradient, theta, size, sparse)
        gaps.append(problem.gap(theta))
        rose |= gaps[-1] > before * (1.0 + 1e-12) + ROUNDING * gaps[0]
    return torch.stack(gaps).squeeze(-1), rose.squeeze(-1)


def _record(
    outcome: Outcome, settings: Settings, problem: Problem, dense: int, sparse: int, gaps: Tensor
) -> Tensor:
    """Record the trials, and draw successes at the common number of gradient steps.

    Returns:
        The gradient steps to success, (trials,), NaN where there is none.
    """
    within = gaps[: settings.steps // (dense + sparse) + 1]
    last = within[-1]
    steps = first_at_most(within, settings.success * gaps[0]) * (dense + sparse)
    columns: dict[str, Any] = {"k_star": int((problem.minimiser[0] != 0).sum()), "k": settings.k}
    columns |= {"alpha": problem.alpha.squeeze(-1), "beta": problem.beta.squeeze(-1)}
    columns |= {"iterations": steps, "gap": last, "dense_steps": dense, "sparse_steps": sparse}
    columns |= {"gap_after_phases": gaps[settings.phases]}
    outcome.record(last.shape, problem, diverged=~last.isfinite(), **columns)
    line = f"{sparse} sparse steps" if sparse else "no sparse phase"
    if bool(steps.isfinite().all()):
        outcome.draw_range(f"cost_{problem.family}", line, dense, steps)
    solved = proportion(int(steps.isfinite().sum()), settings.trials)
    shares = Interval(*(100 * each for each in (solved.value, solved.low, solved.high)))
    outcome.draw_interval(f"success_{problem.family}", line, dense, shares)
    return steps
