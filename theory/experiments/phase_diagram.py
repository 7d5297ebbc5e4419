"""Where IHT finds the sparse minimiser, by k/k* and condition number."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Count, Counts, Kappas, Positive, Size, Trials
from theory.iht import iht
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.quadratic import rotated_quadratics
from theory.problems.traps import Trap
from theory.rates import Theorem2, largest_trap


class Settings(experiment.Settings):
    """F1 with random curvature from theta_0 = 0; F3 from 0 and from its bad point."""

    trials: Trials = Field(24, description="Problems F1, and overlaps w of F3, at each kappa.")
    kappas: Kappas = Field((2.0, 4.0, 8.0, 16.0, 32.0, 64.0), description="Condition numbers.")
    n: Size = Field(96, description="Dimension of F1.")
    k_star: Count = Field(3, description="Non-zeros of the minimisers of F1; F3 has one.")
    k_ratios: Counts = Field((1, 2, 4, 8, 16, 32), description="k/k* of F1.")
    trap_ks: Counts = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    """k/k* of F3."""
    iterations: Count = Field(400, description="IHT steps on F1.")
    trap_iterations: Count = Field(40, description="IHT steps on F3.")
    tolerance: Positive = 1e-6
    """Part of the first gap below which F1 counts as solved; F3 when it keeps the right column."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.k_star <= self.n, "k_star", f"at most n = {self.n}")
        most = self.n // self.k_star
        self.require(self.k_ratios[-1] <= most, "k_ratios", f"at most n / k_star = {most}")
        return self


def run(settings: Settings) -> Outcome:
    """Count successes in every cell."""
    outcome = Outcome("phase_diagram", settings)
    _typical(outcome, settings)
    for k in settings.trap_ks:
        _traps(outcome, settings, k)
    for panel in ("typical", "trap_bad", "trap_zero"):
        for kappa in settings.kappas:
            enough = float(Theorem2(1.0, kappa, 1, kappa).enough)
            outcome.draw(panel, r"$k=64k^\ast(\beta/\alpha)^2$", "bound", enough, kappa)
            if panel == "trap_bad" and (held := largest_trap(kappa)) >= 1:
                outcome.draw(panel, r"the largest trap, $((\kappa-1)/2)^2$", "bound", held, kappa)
    _judge(outcome)
    return outcome


def _judge(outcome: Outcome) -> None:
    """Judge the trials whose k is as large as Theorem 2 requires, if there are any."""
    # All starts on one problem count as one trial.
    failed: dict[tuple[object, ...], bool] = {}
    for row in outcome.trials:
        if row["meets_condition"]:
            problem = row["family"], row["kappa"], row["k"], row["seed"]
            failed[problem] = failed.get(problem, False) or not row["success"]
    if failed:
        families = " and ".join(sorted({str(problem[0]) for problem in failed}))
        outcome.state_never(
            "enough", torch.tensor(list(failed.values())), words={"families": families}
        )


def _typical(outcome: Outcome, settings: Settings) -> None:
    """Solve random quadratics with every k: trials (problems, ratios)."""
    kappas = [kappa for kappa in settings.kappas for _ in range(settings.trials)]
    problem = rotated_quadratics(
        kappas, settings.n, settings.k_star, stream(settings.seed, "phase_diagram")
    )
    k = torch.tensor(settings.k_ratios) * settings.k_star
    start = torch.zeros((len(kappas), len(k), settings.n), dtype=torch.float64)
    trace = iht(problem.gradient, start, k, 1.0 / problem.beta, settings.iterations)
    gap = problem.gap(trace.last)
    success = (gap <= settings.tolerance * problem.gap(start)) & ~trace.diverged
    theorem = Theorem2(problem.alpha, problem.beta, settings.k_star, k)
    columns: dict[str, Any] = {"k_star": settings.k_star, "k": k}
    columns |= {"seed": torch.arange(settings.trials).repeat(len(settings.kappas))[:, None]}
    columns |= {"iterations": settings.iterations, "gap": gap}
    columns |= {"kappa": torch.tensor(kappas, dtype=torch.float64).unsqueeze(-1), "start": "zero"}
    columns |= {"success": success, "meets_condition": theorem.meets_condition}
    outcome.record(gap.shape, problem, diverged=trace.diverged, **columns)
    share = 100.0 * success.reshape(-1, settings.trials, len(k)).double().mean(1)
    for row, kappa in enumerate(settings.kappas):
        for column, ratio in enumerate(settings.k_ratios):
            outcome.draw("typical", f"{kappa:g}", "cell", ratio, float(share[row, column]))


def _traps(outcome: Outcome, settings: Settings, k: int) -> None:
    """Try traps of every condition number with k wrong columns, from two starts."""
    kappas = torch.tensor(settings.kappas, dtype=torch.float64).unsqueeze(-1)
    # Up to nearly all that k columns can overlap.
    ends = math.log10(0.002), math.log10(0.9 * k)
    w = 10.0 ** torch.linspace(*ends, settings.trials, dtype=torch.float64)
    rho = rho_of(kappas, w, k)
    there = rho.isfinite()
    if not bool(there.any()):
        return
    places = there.nonzero()
    trap = Trap(rho[there], w.expand_as(rho)[there], k)
    theorem = Theorem2(trap.alpha, trap.beta, 1, k)
    for name, start in (("bad", trap.bad_point), ("zero", torch.zeros_like(trap.bad_point))):
        trace = iht(trap.gradient, start, k, 1.0 / trap.beta, settings.trap_iterations)
        # Once column 0 is kept the rest is least squares, whose convergence is not waited for.
        success = (trace.last[..., 0] != 0) & ~trace.diverged
        columns: dict[str, Any] = {"k_star": 1, "k": k, "seed": places[:, 1]}
        columns |= {"iterations": settings.trap_iterations, "gap": trap.gap(trace.last)}
        columns |= {"kappa": kappas.expand_as(rho)[there], "start": name, "success": success}
        columns |= {"meets_condition": theorem.meets_condition}
        outcome.record(success.shape, trap, diverged=trace.diverged, **columns)
        for row, kappa in enumerate(settings.kappas):
            found = success[places[:, 0] == row]
            if len(found):
                share = 100.0 * float(found.double().mean())
                outcome.draw(f"trap_{name}", f"{kappa:g}", "cell", k, share)


def rho_of(kappa: Tensor, w: Tensor, k: int) -> Tensor:
    """Return the smaller rho at which F3 has a condition number; NaN where none is so small.

    The condition number falls in rho, then rises. The falling side is searched by halving: unlike
    the solution of an equation, what is found has at most that number, to the last bit.
    Condition numbers and overlaps w < k broadcast.
    """
    grid = 10.0 ** torch.linspace(-4.0, 1.0, 501, dtype=torch.float64).unsqueeze(-1)
    lowest = Trap(grid, w + torch.zeros_like(grid), k).kappa.argmin(0)
    high = grid.squeeze(-1)[lowest] + torch.zeros_like(kappa + w)
    low = torch.full_like(high, 1e-6)
    both = w + torch.zeros_like(high)
    reachable = Trap(high, both, k).kappa <= kappa
    for _ in range(60):
        middle = (low * high).sqrt()
        above = Trap(middle, both, k).kappa > kappa
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(reachable, high, torch.nan)
