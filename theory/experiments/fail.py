"""Need of k ~ kappa^2 k*: the largest k at which IHT can be stuck at a condition number (F3)."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Counts, Kappas, Outcome
from theory.iht import iht
from theory.measures import geometric
from theory.noise import stream
from theory.problems import Trap
from theory.rates import Theorem2, largest_trap
from theory.statistics import Interval, Statement, exact, never

# The search over (w, rho): points along each, how often it narrows, and by how much.
_GRID = 31
_ROUNDS = 30
_NARROWING = 0.4
# Points of a curve over iterations.
_DRAWN = 60


class Settings(experiment.Settings):
    """Traps F3: the largest by search, and IHT on random ones."""

    trials: int = Field(default=30, ge=2)
    """Random traps of each size and number of copies on which IHT runs."""
    kappas: Kappas = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
    """Condition numbers at which the largest trap is sought."""
    sizes: Counts = (8, 32)
    """Wrong coordinates |J| of the random traps."""
    copies: Counts = (1, 3)
    """Traps side by side, so that k* = copies."""
    kappa_most: float = Field(default=50.0, ge=10)
    """Condition number of the random traps, at most."""
    iterations: int = Field(default=1000, ge=1)
    """Of IHT."""
    tolerance: float = Field(default=1e-8, gt=0, lt=1)
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
    outcome = Outcome()
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


def exponent(x: list[float], counts: list[int]) -> Interval:
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
    predicted = [largest_trap(kappa) for kappa in settings.kappas]
    for kappa, k, most in zip(settings.kappas, found, predicted, strict=True):
        least, w, rho = least_kappa(k)
        trap = Trap(rho, w, k)
        outcome.trials.append(
            {
                "family": trap.family,
                "n": trap.n,
                "k_star": 1,
                "k": k,
                "alpha": float(trap.alpha),
                "beta": float(trap.beta),
                "sigma": 0.0,
                "seed": None,
                "iterations": None,
                "gap": float(trap.bad_gap),
                "worst_ratio": None,
                "bound": most,
                "status": "finished",
                "subject": "largest",
                "copies": 1,
                "kappa": least,
                "w": w,
                "rho": rho,
                "start_gap": None,
            }
        )
        outcome.draw("kmax", "largest stuck $k$", "measured", kappa, k)
        outcome.draw("kmax", r"$((\kappa-1)/2)^2$", "fit", kappa, most)
        enough = float(Theorem2(1.0, kappa, 1, 1).enough)
        outcome.draw("kmax", r"Theorem 2 asks for $64\,\kappa^2$", "bound", kappa, enough)
    outcome.statements += growth(settings.kappas, found)


def growth(kappas: tuple[float, ...], found: list[int]) -> list[Statement]:
    """State how the largest stuck k, found by search, grows with the condition number."""
    # A trap has fewer wrong coordinates than the closed form says, which is an infimum.
    predicted = [math.ceil(largest_trap(kappa)) - 1 for kappa in kappas]
    wrong = sum(k != most for k, most in zip(found, predicted, strict=True))
    upper = len(found) // 2
    ratios = [k / kappa**2 for k, kappa in zip(found, kappas, strict=True)]
    return [
        Statement(
            id="closed_form",
            source="this suite's derivation for F3",
            claim=r"the largest stuck $k$ at condition number $\kappa$ is the largest whole number "
            r"below $((\kappa-1)/2)^2$",
            measure=r"condition numbers at which a search over $w$, $\rho$ and $k$ finds another",
            relation="equals",
            predicted=0.0,
            tolerance=0.0,
            measured=exact(wrong),
            trials=len(found),
            note="A search on closed forms of the eigenvalues, without a random sample.",
        ),
        Statement(
            id="exponent",
            source=r"need of $k \gtrsim \kappa^2 k^\ast$",
            claim=r"the largest stuck $k$ grows like $\kappa^2$",
            measure=r"slope of the largest stuck $k$ against $\kappa - 1$, log-log, for "
            rf"$\kappa \ge {kappas[upper - 1]:g}$",
            relation="equals",
            predicted=2.0,
            tolerance=0.05,
            measured=exponent([kappa - 1.0 for kappa in kappas[upper - 1 :]], found[upper - 1 :]),
            trials=len(found) - upper + 1,
            note="The interval holds all slopes that rounding k to whole numbers leaves possible; "
            r"against $\kappa$ itself the slope tends to 2 from above.",
        ),
        Statement(
            id="exponent_all",
            source=r"need of $k \gtrsim \kappa^2 k^\ast$",
            claim=r"the largest stuck $k$ grows at least like $\kappa^2$",
            measure=r"slope of the largest stuck $k$ against $\kappa$, log-log, for all $\kappa$",
            relation="at least",
            predicted=2.0,
            measured=exponent(list(kappas), found),
            trials=len(found),
            note="The interval holds all slopes that rounding k to whole numbers leaves possible.",
        ),
        Statement(
            id="constant",
            source="this suite's derivation for F3",
            claim=r"the largest stuck $k$ is at most $\kappa^2/4$",
            measure=r"largest $k/\kappa^2$ that is stuck",
            relation="at most",
            predicted=0.25,
            measured=exact(max(ratios)),
            trials=len(found),
            note="So traps of this kind show that some constant times kappa^2 k* is needed; the "
            r"constant 64 of Theorem 2 is, as $\kappa$ grows, 256 times that of "
            r"$((\kappa-1)/2)^2$. "
            rf"$k/\kappa^2$ lies between {min(ratios):.3g} and {max(ratios):.3g}.",
        ),
    ]


def random_traps(settings: Settings, k: int, copies: int) -> Trap:
    """Draw traps of k wrong coordinates, log-uniform in w and rho among those that are stuck.

    Raises:
        ConfigError: fewer than asked for are found.
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
    """Run IHT from the bad points with k = copies |J|, and with one kept entry more."""
    parts, unknown = [], 0
    for size in settings.sizes:
        for copies in settings.copies:
            trap = random_traps(settings, size, copies)
            kept = torch.tensor([[copies * size], [copies * size + 1]])

            def watch(theta: Tensor, trap: Trap = trap) -> dict[str, Tensor]:
                return {"gap": trap.gap(theta)}

            trace = iht(
                trap.gradient,
                trap.bad_point.expand(2, -1, -1),
                kept,
                1.0 / trap.beta,
                settings.iterations,
                watch,
            )
            gap = trace.watched["gap"]
            part = gap[-1] / gap[0]
            parts.append(part)
            unknown += int(trace.diverged.sum())
            if (size, copies) == (settings.sizes[-1], settings.copies[-1]):
                _draw(outcome, gap / gap[0])
            outcome.trials += experiment.rows(
                {
                    "family": trap.family,
                    "n": trap.n,
                    "k_star": copies,
                    "k": kept,
                    "alpha": trap.alpha,
                    "beta": trap.beta,
                    "sigma": 0.0,
                    "seed": torch.arange(part.shape[1]),
                    "iterations": settings.iterations,
                    "gap": gap[-1],
                    "worst_ratio": None,
                    "bound": None,
                    "status": trace.diverged,
                    "subject": "iht",
                    "copies": copies,
                    "kappa": trap.kappa,
                    "w": trap.w,
                    "rho": trap.rho,
                    "start_gap": gap[0],
                },
                part.shape,
            )
    outcome.statements += confinement(settings, torch.cat(parts, dim=1), unknown)


def confinement(settings: Settings, part: Tensor, diverged: int) -> list[Statement]:
    """State whether IHT stays at the bad points, and leaves with one kept entry more.

    Args:
        settings: of the experiment.
        part: the last gap as part of the first, (2, traps): with k = |J|, and with one more.
        diverged: trials that diverged.
    """
    traps = rf"F3, $|J|$ from {settings.sizes[0]} to {settings.sizes[-1]}, $k^\ast$ up to "
    traps += rf"{settings.copies[-1]}, $\beta/\alpha \le {settings.kappa_most:g}$"
    return [
        never(
            id="stuck",
            source=r"need of $k \gtrsim \kappa^2 k^\ast$",
            claim=r"IHT from $\theta_J$ with $k = |J|$ stays there",
            measure=f"traps that it leaves in {settings.iterations} iterations ({traps})",
            violations=int((part[0] < 1.0 - 1e-9).sum()),
            trials=part.shape[1],
            diverged=diverged,
        ),
        never(
            id="released",
            source=r"need of $k \gtrsim \kappa^2 k^\ast$",
            claim=r"with $k = |J| + 1$ it leaves, and converges to $f^\ast$",
            measure=rf"traps whose gap is above {settings.tolerance:g} of the first after "
            f"{settings.iterations} iterations ({traps})",
            violations=int((part[1] > settings.tolerance).sum()),
            trials=part.shape[1],
            diverged=diverged,
            note="From this start; another may be stuck elsewhere. With one copy k + 1 is N, and "
            "nothing is thresholded.",
        ),
    ]


def _draw(outcome: Outcome, part: Tensor) -> None:
    """Draw the gap as part of the first, (iterations + 1, 2, traps), at iterations log-spaced."""
    times = np.unique(np.geomspace(1, len(part) - 1, _DRAWN).astype(int)).tolist()
    for place, label in enumerate((r"$k=k^\ast|J|$", r"$k=k^\ast|J|+1$")):
        for t in times:
            each = part[t, place]
            outcome.draw(
                *("trap", label, "measured", t, geometric(each)),
                *(float(each.min()), float(each.max())),
            )
