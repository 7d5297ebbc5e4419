"""Need of k ~ kappa^2 k*: the largest k at which IHT can be stuck at a condition number (F3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Condition, Count, Counts, Fraction, Kappas, Trials
from theory.iht import iht, watch_gap
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.traps import Trap
from theory.rates import Theorem2, largest_trap
from theory.statistics import Interval, exact

# The search over (w, rho): points along each, number of rounds, factor of narrowing.
_GRID = 31
_ROUNDS = 30
_NARROWING = 0.4
# Points of a curve over iterations.
_DRAWN = 60


class Settings(experiment.Settings):
    """Traps F3: the largest by search, and IHT on random ones."""

    trials: Trials = Field(30, description="Random traps of each size and number of copies.")
    kappas: Kappas = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
    """Condition numbers at which the largest trap is sought."""
    sizes: Counts = Field((8, 32), description="Wrong coordinates |J| of the random traps.")
    copies: Counts = Field((1, 3), description="Traps side by side, so that k* = copies.")
    kappa_most: Annotated[Condition, Field(ge=10)] = 50.0
    """Condition number of the random traps, at most."""
    iterations: Count = Field(1000, description="Of IHT.")
    tolerance: Fraction = 1e-8
    """The gap at which IHT counts as having left the trap, as part of the trap's."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        # From 4 on there is a trap with two wrong coordinates; three points make a slope.
        fits = len(self.kappas) >= 3 and self.kappas[0] >= 4.0
        self.require(fits, "kappas", "at least three, each at least 4,")
        # Below twice the least possible condition number random draws would find hardly any.
        most = int(largest_trap(self.kappa_most / 2.0))
        self.require(self.sizes[-1] <= most, "sizes", f"at most {most} (kappa_most)")
        # What gradient descent needs: each step leaves (1 - 1/kappa)^2 of the gap.
        needed = math.ceil(self.kappa_most / 2.0 * -math.log(self.tolerance))
        accepted = f"at least {needed} (kappa_most, tolerance)"
        self.require(self.iterations >= needed, "iterations", accepted)
        return self


def run(settings: Settings) -> Outcome:
    """Search for the largest traps, and start IHT in random ones."""
    outcome = Outcome("fail", settings)
    _search(outcome, settings)
    _iterate(outcome, settings)
    return outcome


def least_kappa(k: int) -> tuple[float, float, float]:
    """Return the least condition number of a trap of k wrong coordinates, and its w and rho.

    The infimum is not attained. It is approached by a grid over (log w, log rho) that narrows
    around its best point, of those that are stuck.
    """
    centre = torch.tensor([0.5 * math.log(k), 0.0], dtype=torch.float64)
    width = torch.tensor([0.5 * math.log(k) + 5.0, 0.5 * math.log(k) + 5.0], dtype=torch.float64)
    unit = torch.linspace(-1.0, 1.0, _GRID, dtype=torch.float64)
    # The distance along rho of the best stuck point grows like the root of that along w.
    narrowing = torch.tensor([_NARROWING, math.sqrt(_NARROWING)], dtype=torch.float64)
    best = (math.inf, math.nan, math.nan)
    for _ in range(_ROUNDS):
        w = (centre[0] + width[0] * unit).exp().clamp(max=k * (1.0 - 1e-9)).unsqueeze(-1)
        rho = (centre[1] + width[1] * unit).exp()
        trap = Trap(rho, w, k)
        kappa = torch.where(trap.is_stuck, trap.kappa, torch.inf)
        row, column = divmod(int(kappa.argmin()), _GRID)
        best = min(best, (float(kappa[row, column]), float(w[row, 0]), float(rho[column])))
        centre = torch.tensor([math.log(best[1]), math.log(best[2])], dtype=torch.float64)
        width = width * narrowing
    return best


def largest_stuck(kappa: float) -> int:
    """Return the largest k of which a trap has at most a condition number, 0 if there is none.

    By bisection: the least condition number grows with k.
    """
    # Theorem 2 leaves none from there on.
    low, high = 0, math.ceil(float(Theorem2(1.0, kappa, 1, 1).enough))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if least_kappa(middle)[0] <= kappa else (low, middle)
    return low


def exponent(x: Sequence[float], counts: Sequence[int]) -> Interval:
    """Return the slope of log y against log x, y known to lie between a count and the next one.

    The interval holds the slopes of all such y.
    """
    logs = np.log(x)
    weights = (logs - logs.mean()) / np.square(logs - logs.mean()).sum()
    below, above = np.log(counts), np.log(np.add(counts, 1))
    ends = np.where(weights > 0, below, above), np.where(weights > 0, above, below)
    return Interval(*(float(weights @ y) for y in (below, *ends)))


def _search(outcome: Outcome, settings: Settings) -> None:
    """Find the largest trap at each condition number."""
    found = [largest_stuck(kappa) for kappa in settings.kappas]
    for kappa, k in zip(settings.kappas, found, strict=True):
        least, w, rho = least_kappa(k)
        trap = Trap(rho, w, k)
        # The vectors of a large trap do not fit into memory.
        columns: dict[str, Any] = {"n": trap.n, "k_star": 1, "k": k, "seed": None}
        columns |= {"gap": trap.bad_gap, "bound": largest_trap(kappa), "subject": "largest"}
        columns |= {"copies": 1, "kappa": least, "w": w, "rho": rho, "start_gap": None}
        outcome.record((1,), trap, **columns)
        enough = float(Theorem2(1.0, kappa, 1, 1).enough)
        outcome.draw("kmax", "largest stuck $k$", "measured", kappa, k)
        outcome.draw("kmax", r"$((\kappa-1)/2)^2$", "fit", kappa, largest_trap(kappa))
        outcome.draw("kmax", r"Theorem 2 asks for $64\,\kappa^2$", "bound", kappa, enough)
    judge_growth(outcome, settings.kappas, found)


def judge_growth(outcome: Outcome, kappas: Sequence[float], found: Sequence[int]) -> None:
    """Judge how the largest stuck k, found by search, grows with the condition number."""
    # The closed form is an infimum: a trap has fewer wrong coordinates.
    predicted = [math.ceil(largest_trap(kappa)) - 1 for kappa in kappas]
    wrong = sum(k != most for k, most in zip(found, predicted, strict=True))
    outcome.state("closed_form", exact(wrong), len(found))
    first = len(found) // 2 - 1
    upper = exponent([kappa - 1.0 for kappa in kappas[first:]], found[first:])
    outcome.state("exponent", upper, len(found) - first, words={"least": kappas[first]})
    outcome.state("exponent_all", exponent(kappas, found), len(found))
    ratios = [k / kappa**2 for k, kappa in zip(found, kappas, strict=True)]
    ends = {"lowest": min(ratios), "highest": max(ratios)}
    outcome.state("constant", exact(max(ratios)), len(found), words=ends)


def random_traps(settings: Settings, k: int, copies: int) -> Trap:
    """Draw traps of k wrong coordinates, log-uniform in w and rho among those that are stuck.

    Raises:
        ConfigError: too few are found.
    """
    generator = stream(settings.seed, "fail", str(k), str(copies))
    log_w, log_rho = (
        math.log(100.0) * (2.0 * torch.rand(200_000, dtype=torch.float64, generator=generator) - 1)
        for _ in range(2)
    )
    w, rho = log_w.exp().clamp(max=0.99 * k), log_rho.exp()
    trap = Trap(rho, w, k, copies)
    suits = trap.is_stuck & (trap.kappa <= settings.kappa_most)
    most = int(suits.sum())
    settings.require(
        settings.trials <= most, "trials", f"at most {most} (as many traps of {k} were found)"
    )
    return Trap(rho[suits][: settings.trials], w[suits][: settings.trials], k, copies)


def _iterate(outcome: Outcome, settings: Settings) -> None:
    """Run IHT from the bad points with k = copies |J|, and with one more: trials (2, traps)."""
    parts, diverged = [], []
    for size, copies in itertools.product(settings.sizes, settings.copies):
        trap = random_traps(settings, size, copies)
        k = torch.tensor([[copies * size], [copies * size + 1]])
        start = trap.bad_point.expand(2, -1, -1)
        step_size = 1.0 / trap.beta
        trace = iht(trap.gradient, start, k, step_size, settings.iterations, watch_gap(trap))
        gap = trace.watched["gap"]
        parts.append(gap[-1] / gap[0])
        diverged.append(trace.diverged)
        columns: dict[str, Any] = {"k_star": copies, "k": k, "seed": torch.arange(settings.trials)}
        columns |= {"iterations": settings.iterations, "gap": gap[-1], "subject": "iht"}
        columns |= {"copies": copies, "kappa": trap.kappa, "w": trap.w, "rho": trap.rho}
        columns |= {"start_gap": gap[0]}
        outcome.record(parts[-1].shape, trap, diverged=trace.diverged, **columns)
    times = np.unique(np.geomspace(1, settings.iterations, _DRAWN).astype(int)).tolist()
    for place, line in enumerate((r"$k=k^\ast|J|$", r"$k=k^\ast|J|+1$")):
        # Of the largest traps, which are the last.
        outcome.draw_trace("trap", line, (gap / gap[0])[:, place], times)
    judge_confinement(outcome, settings, torch.cat(parts, dim=1), torch.cat(diverged, dim=1))


def judge_confinement(outcome: Outcome, settings: Settings, part: Tensor, diverged: Tensor) -> None:
    """Judge whether IHT stays at the bad points with k = |J|, and leaves with one entry more.

    Both are (2, traps); ``part`` is the last gap over the first.
    """
    words = {"smallest": settings.sizes[0], "biggest": settings.sizes[-1]}
    words["most_copies"] = settings.copies[-1]
    outcome.state_never("stuck", part[0] < 1.0 - 1e-9, diverged, words)
    outcome.state_never("released", part[1] > settings.tolerance, diverged, words)
