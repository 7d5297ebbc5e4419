"""For orientation: AC/DC's iterations beside the algorithms of sparse recovery."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from acdc.sparsity.selection import top_k_rows
from theory import experiment
from theory.experiment import Counts, Outcome
from theory.iht import Gradient, Phases, iht, trace
from theory.measures import ROUNDING
from theory.noise import stream
from theory.problems import LeastSquares, gaussian_least_squares, restricted_constants
from theory.statistics import never, proportion

# k in multiples of k*, and how readers see each.
_IHT = {1: r"IHT, $k=k^\ast$", 2: r"IHT, $k=2k^\ast$", 4: r"IHT, $k=4k^\ast$"}
_ACDC = {1: r"AC/DC, $k=k^\ast$", 2: r"AC/DC, $k=2k^\ast$"}
_OMP = "OMP"
_LASSO = "Lasso"
# Random supports from which each restricted constant is sought.
_SUPPORTS = 20

Drawn = dict[tuple[str, str], list[tuple[float, float, float, float]]]
"""By panel and line: x, y and the ends of the interval."""


class Settings(experiment.Settings):
    """Gaussian designs with fewer rows than columns, the same for all algorithms."""

    trials: int = Field(default=20, ge=2)
    """Problems at each k*."""
    n: int = Field(default=100, ge=2)
    """Columns, the dimension of theta."""
    m: int = Field(default=50, ge=10)
    """Rows."""
    k_stars: Counts = (2, 4, 6, 8, 12, 16)
    """Non-zeros of theta*."""
    noise: float = Field(default=0.2, gt=0, le=1e6)
    """Standard deviation of the noise on the targets, where there is some."""
    iterations: int = Field(default=300, ge=1)
    """Of IHT; AC/DC has as many phases as take no more gradients."""
    parts: int = Field(default=5, ge=1)
    """Mini-batches of AC/DC's dense phases."""
    sparse_steps: int = Field(default=5, ge=0)
    """Steps of AC/DC's sparse phases."""
    folds: int = Field(default=3, ge=2, le=10)
    """Of the cross-validation by which the Lasso's penalty is chosen."""
    penalties: int = Field(default=20, ge=2)
    """How many there are to choose from."""
    designs: int = Field(default=3, ge=1)
    """How many designs at each k* have their restricted constants estimated."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        least = max(_IHT) * self.k_stars[-1]
        phase = self.sparse_steps + 1
        self.require(self.n >= least, "n", f"at least {max(_IHT)} k* = {least}")
        self.require(self.m < self.n, "m", f"less than n = {self.n}")
        self.require(self.k_stars[-1] <= self.m, "k_stars", f"at most m = {self.m}")
        self.require(self.m % self.parts == 0, "parts", f"a divisor of m = {self.m}")
        self.require(self.iterations >= phase, "iterations", f"at least sparse_steps + 1 = {phase}")
        self.require(self.designs <= self.trials, "designs", f"at most trials = {self.trials}")
        return self


class Observed:
    """f(theta) = ||A theta - b||^2 / (2 m) with b = A theta* + noise, trials (problems, any).

    The noise has parts within the span of A, so that theta* need not be a minimiser.
    """

    def __init__(self, problem: LeastSquares, noise: Tensor) -> None:
        self.problem = problem
        self.noise = noise
        """(problems, any, m)."""
        self.targets = problem.targets + noise
        """b, (problems, any, m)."""

    def gradient(self, rows: slice = slice(None)) -> Gradient:
        """Return the gradient of the mean over some rows."""
        design, targets = self.problem.design[:, rows], self.targets[..., rows]
        return lambda theta: (theta @ design.mT - targets) @ design / design.shape[1]

    def loss(self, theta: Tensor) -> Tensor:
        """f: (problems, any, N) to (problems, any)."""
        return 0.5 * (theta @ self.problem.design.mT - self.targets).square().mean(-1)


@dataclass(frozen=True)
class Solved:
    """What an algorithm found, trials (problems, levels)."""

    theta: Tensor
    k: int | None
    """Entries that it may keep."""
    diverged: Tensor
    rises: Tensor
    """Whether a step raised f by more than rounding."""


def observe(settings: Settings, k_star: int) -> Observed:
    """Draw the problems of one k*, each at two levels: without and with noise."""
    generator = stream(settings.seed, "recovery", str(k_star))
    problem = gaussian_least_squares(settings.trials, settings.n, settings.m, k_star, generator)
    shape = (settings.trials, 1, settings.m)
    drawn = torch.randn(shape, dtype=torch.float64, generator=generator)
    levels = torch.tensor([0.0, settings.noise], dtype=torch.float64)
    return Observed(problem, drawn * levels.unsqueeze(-1))


def iterative(
    settings: Settings, observed: Observed, k_star: int, labels: Mapping[int, str]
) -> dict[str, Solved]:
    """Run IHT with step 1/beta, or AC/DC with Corollary 1's, from 0, for several k at once."""
    beta = observed.problem.beta
    levels = observed.noise.shape[1]
    # Trials (problems, ks x levels).
    each = Observed(observed.problem, observed.noise.repeat(1, len(labels), 1))
    ks = k_star * torch.tensor(list(labels)).repeat_interleave(levels)
    start = torch.zeros((*each.noise.shape[:-1], settings.n), dtype=torch.float64)

    def watch(theta: Tensor) -> dict[str, Tensor]:
        return {"loss": each.loss(theta)}

    if labels == _IHT:
        found = iht(each.gradient(), start, ks, 1.0 / beta, settings.iterations, watch)
    else:
        size = settings.m // settings.parts
        parts = [each.gradient(slice(i, i + size)) for i in range(0, settings.m, size)]
        phases = Phases(0.5 / beta, 1, settings.sparse_steps, 1.0 / beta)
        count = settings.iterations // (settings.sparse_steps + 1)
        found = trace(phases.step(parts, each.gradient(), ks), start, count, watch)
    losses = found.watched["loss"]
    # A loss that is zero but for rounding may rise by as much.
    allowed = losses[:-1] * (1.0 + 1e-9) + ROUNDING * losses[0]
    rises = (losses[1:] > allowed).any(0)
    columns = (part.split_with_sizes([levels] * len(labels), 1) for part in (found.diverged, rises))
    thetas = found.last.split_with_sizes([levels] * len(labels), 1)
    return {
        label: Solved(theta, ratio * k_star, diverged, rise)
        for (ratio, label), theta, diverged, rise in zip(
            labels.items(), thetas, *columns, strict=True
        )
    }


def classical(settings: Settings, observed: Observed, k_star: int) -> dict[str, Solved]:
    """Solve with scikit-learn, one problem after the other, as it has no batches.

    OMP is told k*. The Lasso's penalty is chosen by cross-validation over the rows; it is fitted
    again to all of them.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LassoCV, orthogonal_mp

    shape = observed.targets.shape[:-1]
    omp, lasso = (torch.zeros((*shape, settings.n), dtype=torch.float64) for _ in range(2))
    fit = LassoCV(alphas=settings.penalties, cv=settings.folds, fit_intercept=False)
    for place, design in enumerate(observed.problem.design.numpy()):
        for level, target in enumerate(observed.targets[place].numpy()):
            with warnings.catch_warnings():
                # Without noise, small penalties converge slowly; their fits are good enough.
                warnings.simplefilter("ignore", ConvergenceWarning)
                lasso[place, level] = torch.from_numpy(fit.fit(design, target).coef_)
            chosen = orthogonal_mp(design, target, n_nonzero_coefs=k_star)
            omp[place, level] = torch.from_numpy(chosen)
    no = torch.zeros(shape, dtype=torch.bool)
    return {_OMP: Solved(omp, k_star, no, no), _LASSO: Solved(lasso, None, no, no)}


def run(settings: Settings) -> Outcome:
    """Solve every problem with every algorithm, without and with noise."""
    outcome = Outcome()
    drawn: Drawn = {}
    descents: list[Solved] = []
    for k_star in settings.k_stars:
        observed = observe(settings, k_star)
        descending = iterative(settings, observed, k_star, _IHT)
        descents += descending.values()
        solved = descending | iterative(settings, observed, k_star, _ACDC)
        for label, each in (solved | classical(settings, observed, k_star)).items():
            _record(outcome, settings, observed, k_star, label, each, drawn)
    _draw(outcome, settings, drawn)
    # Of one design both levels of noise and all k are one trial.
    designs = len(settings.k_stars) * settings.trials
    risen = torch.stack([each.rises.any(-1) for each in descents])
    risen = risen.reshape(len(settings.k_stars), len(_IHT), settings.trials).any(1)
    outcome.statements = [
        never(
            id="descent",
            source="Lemma 2, as reconstructed",
            claim=r"with step $1/\beta$ iterative hard thresholding never raises $f$, for any $k$",
            measure="designs on which a step does (F1', fewer rows than columns, with and without "
            "noise)",
            violations=int(risen.sum()),
            trials=designs,
            diverged=sum(int(each.diverged.sum()) for each in descents),
            note=r"$\beta$ is the largest eigenvalue of $A^\top A/m$. Rates of success are for "
            "orientation: with fewer rows than columns no constant is known by which the paper's "
            "theorems could promise one.",
        )
    ]
    return outcome


def _record(
    outcome: Outcome,
    settings: Settings,
    observed: Observed,
    k_star: int,
    label: str,
    solved: Solved,
    drawn: Drawn,
) -> None:
    """Add an algorithm's rows at one k*, and what is drawn of them.

    Success: the k* entries of largest magnitude are at the places of theta*'s.
    """
    problem, theta = observed.problem, solved.theta
    target = problem.minimiser
    error = (theta - target).norm(dim=-1) / target.norm(dim=-1)
    places = top_k_rows(theta, k_star, magnitudes=True)
    # Where there are fewer, T_k fills up with zeros.
    success = ((places & (theta != 0)) == (target != 0)).all(-1) & ~solved.diverged
    outcome.trials += experiment.rows(
        {
            "family": problem.family,
            "n": settings.n,
            "k_star": k_star,
            "k": solved.k,
            "beta": problem.beta,
            "seed": torch.arange(settings.trials).unsqueeze(-1),
            "gap": observed.loss(theta) - observed.loss(target),
            "status": solved.diverged,
            "algorithm": label.partition(",")[0],
            "m": settings.m,
            "target_noise": torch.tensor([0.0, settings.noise], dtype=torch.float64),
            "error": error,
            "success": success.int(),
            "nonzeros": theta.count_nonzero(-1),
        },
        success.shape,
    )
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    for level, suffix in enumerate(("", "_noise")):
        rate = proportion(int(success[:, level].sum()), settings.trials)
        low, middle, high = error[:, level].quantile(quartiles).tolist()
        for panel, y, least, most in (
            (f"success{suffix}", rate.value, rate.low, rate.high),
            (f"error{suffix}", middle, low, high),
        ):
            drawn.setdefault((panel, label), []).append((k_star, y, least, most))


def _draw(outcome: Outcome, settings: Settings, drawn: Drawn) -> None:
    """Draw success and error by k*, and restricted condition numbers, which are from below."""
    for panel in ("success", "error", "success_noise", "error_noise"):
        for (name, label), points in drawn.items():
            if name == panel:
                for point in points:
                    outcome.draw(panel, label, "measured", *point)
    for times in (2 * ratio + 1 for ratio in _ACDC):
        for k_star in settings.k_stars:
            if times * k_star > settings.m:
                continue  # of more columns than rows some combination is zero
            design = observe(settings, k_star).problem.design[: settings.designs]
            generator = stream(settings.seed, "recovery", "supports", str(k_star))
            kappa = restricted_constants(design, times * k_star, _SUPPORTS, generator).kappa
            middle = float(kappa.log().mean().exp())
            label = rf"${times}k^\ast$ columns"
            outcome.draw(
                *("condition", label, "measured", k_star, middle),
                *(float(kappa.min()), float(kappa.max())),
            )
