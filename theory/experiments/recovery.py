"""For orientation: AC/DC's iterations beside the algorithms of sparse recovery."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from acdc.sparsity.selection import top_k_rows
from theory import experiment
from theory.experiment import Count, Counts, Positive, Size, Steps, Trials
from theory.iht import dense_phase, hard_threshold, iht, on_support, trace
from theory.measures import ROUNDING
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.base import Gradient
from theory.problems.regression import LeastSquares, gaussian_least_squares, restricted_constants
from theory.statistics import Interval, proportion

# k in multiples of k*, and how readers see each.
_IHT = {1: r"IHT, $k=k^\ast$", 2: r"IHT, $k=2k^\ast$", 4: r"IHT, $k=4k^\ast$"}
_ACDC = {1: r"AC/DC, $k=k^\ast$", 2: r"AC/DC, $k=2k^\ast$"}
_OMP = "OMP"
_LASSO = "Lasso"
# Random supports from which each restricted constant is sought.
_SUPPORTS = 20

_PANELS = ("success", "error", "success_noise", "error_noise")


class Settings(experiment.Settings):
    """Gaussian designs with fewer rows than columns, the same for all algorithms."""

    trials: Trials = Field(20, description="Problems at each k*.")
    n: Size = Field(100, description="Columns, the dimension of theta.")
    m: Annotated[Count, Field(ge=10)] = Field(50, description="Rows.")
    k_stars: Counts = Field((2, 4, 6, 8, 12, 16), description="Non-zeros of theta*.")
    noise: Positive = Field(0.2, description="Standard deviation of the noise on the targets.")
    iterations: Count = Field(300, description="Of IHT; AC/DC computes no more gradients.")
    parts: Count = Field(5, description="Mini-batches of AC/DC's dense phases.")
    sparse_steps: Steps = Field(5, description="Steps of AC/DC's sparse phases.")
    folds: Annotated[Count, Field(ge=2, le=10)] = 3
    """Of the cross-validation by which the Lasso's penalty is chosen."""
    penalties: Size = Field(20, description="How many there are to choose from.")
    designs: Count = 3
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

        def phases(theta: Tensor) -> Tensor:
            pruned = hard_threshold(dense_phase(parts, theta, 0.5 / beta), ks)
            return on_support(each.gradient(), pruned, 1.0 / beta, settings.sparse_steps)

        count = settings.iterations // (settings.sparse_steps + 1)
        found = trace(phases, start, count, watch)
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

    OMP gets k*. The Lasso's penalty is chosen by cross-validation over the rows; it is fitted
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
    outcome = Outcome("recovery", settings)
    descents: list[Solved] = []
    for k_star in settings.k_stars:
        observed = observe(settings, k_star)
        descending = iterative(settings, observed, k_star, _IHT)
        descents += descending.values()
        solved = descending | iterative(settings, observed, k_star, _ACDC)
        for label, each in (solved | classical(settings, observed, k_star)).items():
            _record(outcome, settings, observed, k_star, label, each)
    # By panel and line, as a plot reads them.
    lines = list(dict.fromkeys(row["line"] for row in outcome.series))
    outcome.series.sort(key=lambda row: (_PANELS.index(row["panel"]), lines.index(row["line"])))
    _draw_condition(outcome, settings)
    # Both levels of noise and all k on one design count as one trial.
    risen = torch.stack([each.rises.any(-1) for each in descents])
    risen = risen.reshape(len(settings.k_stars), len(_IHT), settings.trials).any(1)
    outcome.state_never("descent", risen, sum(int(each.diverged.sum()) for each in descents))
    return outcome


def _record(
    outcome: Outcome,
    settings: Settings,
    observed: Observed,
    k_star: int,
    label: str,
    solved: Solved,
) -> None:
    """Record and draw an algorithm's trials (problems, levels) at one k*.

    Success: the k* entries of largest magnitude are on the support of theta*.
    """
    problem, theta = observed.problem, solved.theta
    target = problem.minimiser
    error = (theta - target).norm(dim=-1) / target.norm(dim=-1)
    places = top_k_rows(theta, k_star, magnitudes=True)
    # Where there are fewer, T_k fills up with zeros.
    success = ((places & (theta != 0)) == (target != 0)).all(-1) & ~solved.diverged
    columns: dict[str, Any] = {"k_star": k_star, "k": solved.k, "alpha": None, "sigma": None}
    columns |= {"gap": observed.loss(theta) - observed.loss(target)}
    columns |= {"algorithm": label.partition(",")[0], "m": settings.m}
    columns |= {"target_noise": torch.tensor([0.0, settings.noise], dtype=torch.float64)}
    columns |= {"error": error, "success": success.int(), "nonzeros": theta.count_nonzero(-1)}
    outcome.record(success.shape, problem, diverged=solved.diverged, **columns)
    quartiles = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64)
    for level, suffix in enumerate(("", "_noise")):
        rate = proportion(int(success[:, level].sum()), settings.trials)
        outcome.draw_interval(f"success{suffix}", label, k_star, rate)
        middle = Interval(*error[:, level].quantile(quartiles).tolist())
        outcome.draw_interval(f"error{suffix}", label, k_star, middle)


def _draw_condition(outcome: Outcome, settings: Settings) -> None:
    """Draw restricted condition numbers by k*, which are estimates from below."""
    for times in (2 * ratio + 1 for ratio in _ACDC):
        for k_star in settings.k_stars:
            if times * k_star > settings.m:
                continue  # of more columns than rows some combination is zero
            design = observe(settings, k_star).problem.design[: settings.designs]
            generator = stream(settings.seed, "recovery", "supports", str(k_star))
            alpha, beta = restricted_constants(design, times * k_star, _SUPPORTS, generator)
            line = rf"${times}k^\ast$ columns"
            outcome.draw_range("condition", line, k_star, beta / alpha)
