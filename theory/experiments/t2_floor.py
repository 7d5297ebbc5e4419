"""Theorem 2 with noise: how the floor of the error depends on variance, curvature and support."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Count, Counts, Kappas, Sigmas, Size, Trials
from theory.iht import Trace, Watch, iht, watch_errors
from theory.measures import geometric, tail_mean
from theory.noise import gaussian, stream
from theory.outcome import Outcome
from theory.problems import Problem
from theory.problems.base import Gradient
from theory.problems.quadratic import Quadratic, diagonal_quadratics
from theory.problems.regression import LeastSquares, gaussian_least_squares, restricted_constants
from theory.rates import Theorem2
from theory.statistics import Interval, mean, slope

Where = Literal["on", "off", "everywhere", "flat"]
LABELS: dict[Where, str] = {
    "on": r"noise on $S^\ast$",
    "off": r"noise off $S^\ast$",
    "everywhere": "noise everywhere",
    "flat": r"noise off $S^\ast$, curvature $\alpha$ there",
}
_RESTRICTED = r"noise everywhere, smooth along sparse directions only (times $\beta$)"
_STATED = r"stated for large $k$: $2\sigma^2/(\alpha\beta)$"
_RIGOROUS = r"without Lemma 5, for large $k$: $4\sigma^2/\alpha^2$"


class Settings(experiment.Settings):
    """Diagonal quadratics F1 with curvature alpha on S*, started at theta*; rows of F1'."""

    trials: Trials = Field(24, description="Problems at each point.")
    n: Size = Field(256, description="Dimension of theta.")
    k_star: Count = Field(4, description="Non-zeros of the minimiser.")
    k_ratio: Count = Field(16, description="k/k* where curvature and noise vary.")
    kappas: Kappas = (4.0, 8.0, 16.0, 32.0, 64.0)
    """Condition numbers, at the middle one of the noise levels."""
    sigmas: Sigmas = Field((0.03, 0.1, 0.3), description="Noise levels, at the least kappa.")
    iterations: Size = Field(600, description="Of each trial; the second half is averaged.")
    wide_n: Size = 1100
    """Dimension where k is as large as the theorem requires, 256 k* at beta/alpha = 2."""
    batches: Counts = Field((64, 128, 256, 512, 1024), description="Rows in a mini-batch of F1'.")

    @property
    def middle_sigma(self) -> float:
        """The noise level at which the condition number varies."""
        return self.sigmas[len(self.sigmas) // 2]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        most = self.n // self.k_star
        self.require(self.k_star < self.n, "k_star", f"less than n = {self.n}")
        self.require(self.k_ratio <= most, "k_ratio", f"at most n / k_star = {most}")
        self.require(
            self.wide_n > 256 * self.k_star, "wide_n", f"more than 256 k_star = {256 * self.k_star}"
        )
        self.require(self.sigmas[0] > 0, "sigmas", "more than 0")
        return self


def run(settings: Settings) -> Outcome:
    """Measure stationary errors, and compare their growth with the stated one."""
    outcome = Outcome("t2_floor", settings)
    for where in LABELS:
        _by_curvature_and_noise(outcome, settings, where)
    _by_restricted_curvature(outcome, settings)
    _draw_bounds(outcome, settings)
    _where_k_is_enough(outcome, settings)
    _by_batch(outcome, settings)
    return outcome


def _floors(
    outcome: Outcome,
    problem: Problem,
    trace: Trace,
    k_star: int,
    k: int,
    sigma: Tensor,
    **columns: object,
) -> tuple[Tensor, Tensor]:
    """Record the trials (problems, 1), and return the stationary means of D and of the gap."""
    distance2, gap = (tail_mean(trace.watched[name]) for name in ("distance2", "gap"))
    theorem = Theorem2(problem.alpha, problem.beta, k_star, k, sigma)
    outcome.record(
        distance2.shape,
        problem,
        k_star=k_star,
        k=k,
        sigma=sigma,
        iterations=len(trace.watched["gap"]) - 1,
        gap=gap,
        bound=theorem.stated_distance2_floor,
        diverged=trace.diverged,
        distance2=distance2,
        meets_condition=theorem.meets_condition,
        **({"noise": None, "batch_size": None} | columns),
    )
    return distance2.squeeze(-1), gap.squeeze(-1)


def _from_minimiser(
    problem: Problem, gradient: Gradient, k: int, iterations: int, watch: Watch | None = None
) -> Trace:
    watch = watch or watch_errors(problem)
    return iht(gradient, problem.minimiser, k, 1.0 / problem.beta, iterations, watch)


def _noisy(problem: Quadratic, sigma: Tensor, where: Where, generator: torch.Generator) -> Gradient:
    inside = problem.minimiser != 0
    support = {"on": inside, "off": ~inside, "flat": ~inside, "everywhere": None}[where]
    return gaussian(problem.gradient, sigma, generator, support)


def _by_curvature_and_noise(outcome: Outcome, settings: Settings, where: Where) -> None:
    """Measure floors against 1/alpha at one noise level, and against it at one alpha."""
    points = [(kappa, settings.middle_sigma) for kappa in settings.kappas]
    points += [(settings.kappas[0], sigma) for sigma in settings.sigmas]
    pairs = torch.tensor(points, dtype=torch.float64).repeat_interleave(settings.trials, 0)
    kappas, sigmas = pairs.mT
    generator = stream(settings.seed, "t2_floor", where)
    problem = diagonal_quadratics(
        kappas.tolist(), settings.n, settings.k_star, generator, flat=True
    )
    if where == "flat":
        # One coordinate keeps the curvature beta; all others have alpha.
        steepest = problem.hessian == problem.beta.unsqueeze(-1)
        hessian = torch.where(steepest, problem.hessian, problem.alpha.unsqueeze(-1))
        problem = dataclasses.replace(problem, hessian=hessian)
    k = settings.k_ratio * settings.k_star
    sigma = sigmas.unsqueeze(-1)
    gradient = _noisy(problem, sigma, where, generator)
    trace = _from_minimiser(problem, gradient, k, settings.iterations)
    floor, _ = _floors(outcome, problem, trace, settings.k_star, k, sigma, noise=where)

    count = len(settings.kappas) * settings.trials
    by_curvature, by_noise = slice(0, count), slice(count, None)
    variance = torch.tensor([x**2 for x in sigmas.tolist()], dtype=torch.float64)
    for panel, x, part in (("alpha", kappas, by_curvature), ("sigma", variance, by_noise)):
        _draw(outcome, panel, LABELS[where], x[part], floor[part], settings.trials)
    for id, x, part in (("variance", variance, by_noise), ("curvature", kappas, by_curvature)):
        found, diverged = slope(x[part], floor[part]), trace.diverged[part]
        words = {"where": where, "noise": LABELS[where]}
        outcome.state(f"{id}_%(where)s", found, len(diverged), diverged, words)


def _by_restricted_curvature(outcome: Outcome, settings: Settings) -> None:
    """Measure floors on F1' with fewer rows than columns, where noise moves the support.

    There f is less smooth in all directions than 1 / step size, and the proof's step from all
    coordinates to the support cannot be avoided.
    """
    n, m, k_star, k = 128, 48, 3, 6
    # Each problem has matrices of its own, which take time.
    trials = max(2, settings.trials // 3)
    kappas = [kappa for kappa in settings.kappas for _ in range(trials)]
    generator = stream(settings.seed, "t2_floor", "restricted")
    drawn = gaussian_least_squares(len(kappas), n, m, k_star, generator)
    scale = torch.tensor(kappas, dtype=torch.float64).rsqrt()[:, None, None]
    design = torch.where(drawn.minimiser == 0, drawn.design, scale * drawn.design)
    alpha, beta = restricted_constants(design, 2 * k + k_star, 10, generator)
    problem = dataclasses.replace(
        drawn, design=design, alpha=alpha.unsqueeze(-1), beta=beta.unsqueeze(-1)
    )
    sigma = torch.full_like(problem.alpha, settings.middle_sigma)
    gradient = gaussian(problem.gradient, sigma, generator)
    trace = _from_minimiser(problem, gradient, k, 3 * settings.iterations)
    floor, _ = _floors(outcome, problem, trace, k_star, k, sigma, noise="restricted")
    inverse, scaled = 1.0 / alpha, floor * beta
    for x, y in zip(inverse.reshape(-1, trials), scaled.reshape(-1, trials), strict=True):
        outcome.draw_interval("alpha", _RESTRICTED, geometric(x), mean(y))
    found = slope(inverse, scaled)
    outcome.state("curvature_restricted", found, len(kappas), trace.diverged, {"m": m, "n": n})


def _draw(outcome: Outcome, panel: str, line: str, x: Tensor, y: Tensor, trials: int) -> None:
    """Draw the mean of the trials at each x."""
    for place, each in zip(x[::trials].tolist(), y.reshape(-1, trials), strict=True):
        outcome.draw_interval(panel, line, place, mean(each))


def _draw_bounds(outcome: Outcome, settings: Settings) -> None:
    """Draw the stated floor, and one that is proven for any noise.

    Lemma 5 is about a fixed set; the reconstructed proof uses it for one that depends on the noise.
    Bounding sqrt(E D) step by step needs no such lemma and gives
    (c sigma / beta)^2 / (1 - c sqrt(1 - alpha/beta))^2 with c = 1 + sqrt(k*/k), which tends to
    4 sigma^2 / alpha^2 for large k and beta/alpha.
    """
    middle = settings.middle_sigma
    for kappa in settings.kappas:
        outcome.draw("alpha", _STATED, "bound", kappa, 2.0 * middle**2 * kappa)
        outcome.draw("alpha", _RIGOROUS, "bound", kappa, 4.0 * middle**2 * kappa**2)
    for sigma in settings.sigmas:
        outcome.draw("sigma", _STATED, "bound", sigma**2, 2.0 * sigma**2 * settings.kappas[0])


def _where_k_is_enough(outcome: Outcome, settings: Settings) -> None:
    """Compare the floors with the stated bounds where the theorem's condition on k is met."""
    kappa, k = 2.0, 256 * settings.k_star
    ratios: dict[str, list[tuple[Interval, str, Tensor]]] = {"distance2": [], "gap": []}
    for where in ("on", "off", "everywhere"):
        generator = stream(settings.seed, "t2_floor", "wide", where)
        problem = diagonal_quadratics(
            [kappa] * settings.trials, settings.wide_n, settings.k_star, generator, flat=True
        )
        sigma = torch.full_like(problem.alpha, settings.sigmas[-1])
        gradient = _noisy(problem, sigma, where, generator)
        trace = _from_minimiser(problem, gradient, k, 100)
        floors = _floors(outcome, problem, trace, settings.k_star, k, sigma, noise=where)
        theorem = Theorem2(problem.alpha, problem.beta, settings.k_star, k, sigma)
        bounds = theorem.stated_distance2_floor, theorem.stated_gap_floor
        for found, floor, bound in zip(ratios.values(), floors, bounds, strict=True):
            found.append((mean(floor / bound.squeeze(-1)), LABELS[where], trace.diverged))
    for name, each in ratios.items():
        largest, noise, diverged = max(each, key=lambda one: one[0].value)
        outcome.state(f"floor_{name}", largest, settings.trials, diverged, {"noise": noise})


def _by_batch(outcome: Outcome, settings: Settings) -> None:
    """Measure floors of mini-batches, whose variance is that of one row over their size."""
    n, m, k_star, k = 32, 512, 2, 8
    floors, variances, diverged = [], [], 0
    for size in settings.batches:
        generator = stream(settings.seed, "t2_floor", "batch", str(size))
        problem = gaussian_least_squares(settings.trials, n, m, k_star, generator, error=0.3)
        gradient = problem.minibatch(size, generator)

        def watch(theta: Tensor, problem: LeastSquares = problem) -> Mapping[str, Tensor]:
            return {**watch_errors(problem)(theta), "row_variance": problem.row_variance(theta)}

        trace = _from_minimiser(problem, gradient, k, 150, watch)
        sigma = (problem.row_variance(problem.minimiser) / size).sqrt()
        floors.append(_floors(outcome, problem, trace, k_star, k, sigma, batch_size=size)[0])
        variances.append(tail_mean(trace.watched["row_variance"]).flatten() / size)
        diverged += int(trace.diverged.sum())
        bound = Theorem2(problem.alpha, problem.beta, k_star, k, sigma).stated_distance2_floor
        outcome.draw("batch", _STATED, "bound", size, float(bound.mean()))
    sizes = torch.tensor(settings.batches, dtype=torch.float64).repeat_interleave(settings.trials)
    floor, variance = torch.cat(floors), torch.cat(variances)
    _draw(outcome, "batch", "mini-batches", sizes, floor, settings.trials)
    outcome.draw_fit("batch", "mini-batches", sizes, floor)
    for id, x in (("batch_variance", variance), ("batch_size", sizes)):
        outcome.state(id, slope(x, floor), len(floor), diverged)
