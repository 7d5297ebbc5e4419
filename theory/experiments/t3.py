"""Theorem 3: a sparse nearly-stationary point, without any curvature from below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Counts, Outcome, Sigmas, ascending
from theory.iht import iht_step, iterate, on_support
from theory.layout import Role
from theory.noise import gaussian, stream
from theory.problems import SineSquares, Weight, sine_squares
from theory.rates import theorem3
from theory.statistics import Interval, Statement, mean, never, slope

_SOURCE = "Theorem 3"


class Settings(experiment.Settings):
    """F2 from theta_0 = 0, with fewer and with more kept entries than residuals."""

    trials: int = Field(default=18, ge=2)
    """Problems at each size of the minimiser."""
    n: int = Field(default=200, ge=2)
    """Dimension of theta."""
    k_star: int = Field(default=20, ge=1)
    """Non-zeros of the minimiser, and rows of A."""
    ks: Counts = (2, 4, 8, 16, 32)
    """Kept entries."""
    sizes: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=2), AfterValidator(ascending)
    ] = (0.1, 1.0, 10.0)
    """Factors of the minimiser, which set the size B of the iterates."""
    sigmas: Sigmas = (0.1, 1.0)
    """Noise levels, beside none."""
    c: Weight = 1.2
    """Weight of the sine; f is not convex above 1."""
    tail: float = Field(default=0.5, ge=0)
    """Scale of the columns beyond the first k*."""
    iterations: int = Field(default=50, ge=2)
    """IHT steps."""
    support_steps: int = Field(default=25, ge=1)
    """Gradient steps on the support after each."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.ks[-1] <= self.n, "ks", f"at most n = {self.n}")
        self.require(self.k_star < self.n, "k_star", f"less than n = {self.n}")
        self.require(self.sigmas[0] > 0, "sigmas", "more than 0")
        return self


@dataclass(frozen=True)
class _Found:
    """Of trials (problems, ks): what the theorem bounds, by the number T of iterations."""

    mean2: Tensor
    """(1/T) sum of ||grad f(theta_t)||_inf^2 over t < T, (iterations, ...)."""
    least: Tensor
    """The least ||grad f(theta_t)||_inf of all, (...)."""
    bound: Tensor
    """On mean2."""
    largest: Tensor
    """B, the largest entry of all iterates, (...)."""
    diverged: Tensor


def run(settings: Settings) -> Outcome:
    """Compare the gradients of sparse iterates with the bound at every number of iterations."""
    outcome = Outcome()
    sizes = torch.tensor(settings.sizes, dtype=torch.float64).repeat_interleave(settings.trials)
    problem = _problem(settings, sizes)
    quiet = _iterate(outcome, settings, problem, 0.0)
    noisy = {sigma: _iterate(outcome, settings, problem, sigma) for sigma in settings.sigmas}
    _draw(outcome, settings, quiet)

    violated = (quiet.mean2 > quiet.bound * (1.0 + 1e-9)).any(0)
    few = [place for place, k in enumerate(settings.ks) if k < settings.k_star]
    most = few[-1:]
    outcome.statements = [
        never(
            id="mean_gradient",
            source=_SOURCE,
            claim=r"$\frac{1}{T}\sum_t\|\nabla f(\theta_t)\|_\infty^2 \le 2\beta(f_0-f_T)/T + "
            r"2\beta^2kB^2 + 2\varepsilon^2$ for every $T$",
            measure="problems that exceed it at some $k$ and $T$ (F2, no noise)",
            violations=int(violated.any(-1).sum()),
            trials=len(violated),
            diverged=int(quiet.diverged.sum()),
            note="Loose: the largest mean is "
            f"{float((quiet.mean2[-1] / quiet.bound[-1]).max()):.2g} of its bound.",
        ),
        *(_with_noise(settings, sigma, found) for sigma, found in noisy.items()),
        Statement(
            id="size",
            source=_SOURCE,
            claim=r"$\min_t\|\nabla f(\theta_t)\|_\infty$ grows at most as $B$",
            measure="slope against $B$, log-log, at the largest $k$ below "
            rf"$k^\ast = {settings.k_star}$",
            relation="at most",
            predicted=1.0,
            measured=slope(
                quiet.largest[:, most].flatten().numpy(), quiet.least[:, most].flatten().numpy()
            ),
            trials=quiet.least[:, most].numel(),
            diverged=int(quiet.diverged[:, most].sum()),
            note="No power law: the slope differs with the range of B.",
        ),
        Statement(
            id="kept",
            source=_SOURCE,
            claim=r"$\min_t\|\nabla f(\theta_t)\|_\infty$ grows at most as $\sqrt{k}$",
            measure=rf"slope against $k < k^\ast = {settings.k_star}$ of it over $B$, log-log, the "
            "mean over problems",
            relation="at most",
            predicted=0.5,
            measured=_mean_slope([settings.ks[place] for place in few], quiet, few),
            trials=len(sizes),
            diverged=int(quiet.diverged[:, few].sum()),
        ),
    ]
    return outcome


def _mean_slope(ks: Sequence[int], found: _Found, places: Sequence[int]) -> Interval:
    """Return the mean over problems of the slope of the least gradient over B against k."""
    values = (found.least / found.largest)[:, list(places)]
    return mean([slope(ks, each).value for each in values.numpy()])


def _problem(settings: Settings, sizes: Tensor) -> SineSquares:
    drawn = sine_squares(
        *(len(sizes), settings.c, settings.tail, settings.n, settings.k_star),
        stream(settings.seed, "t3"),
    )
    minimiser = drawn.minimiser * sizes[:, None, None]
    return SineSquares(drawn.c, drawn.tail, minimiser, drawn.alpha, drawn.beta)


def _iterate(outcome: Outcome, settings: Settings, problem: SineSquares, sigma: float) -> _Found:
    """Alternate IHT steps and optimisation on the support, and compare with the bound."""
    gradient = gaussian(problem.gradient, sigma, stream(settings.seed, "t3", str(sigma)))
    k = torch.tensor(settings.ks)
    beta = problem.beta
    iht_once = iht_step(gradient, k, 1.0 / beta if sigma == 0.0 else 0.5 / beta)

    def step(theta: Tensor) -> Tensor:
        return on_support(problem.gradient, iht_once(theta), 1.0 / beta, settings.support_steps)

    start = torch.zeros((len(beta), len(k), settings.n), dtype=torch.float64)
    first = problem.gap(start)
    gradients2 = [problem.gradient(start).abs().amax(-1).square()]
    largest, epsilon = torch.zeros_like(first), torch.zeros_like(first)
    bounds = []
    for count, (theta, lost) in enumerate(iterate(step, start, settings.iterations), 1):
        found = problem.gradient(theta)
        gradients2.append(found.abs().amax(-1).square())
        largest = torch.maximum(largest, theta.abs().amax(-1))
        # Of the support it was optimised to this, whatever it was asked for.
        left = torch.where(theta != 0, found, 0.0).square().sum(-1).sqrt()
        epsilon = torch.maximum(epsilon, left)
        drop = first - problem.gap(theta)
        diverged = lost
        bounds.append(theorem3(beta, k, largest, epsilon, drop, count, sigma))
    counts = torch.arange(1, settings.iterations + 1)[:, None, None]
    mean2 = torch.stack(gradients2[:-1]).cumsum(0) / counts
    bound = torch.stack(bounds)
    least = torch.stack(gradients2).amin(0).sqrt()
    outcome.trials += experiment.rows(
        {
            "family": problem.family,
            "n": settings.n,
            "k_star": settings.k_star,
            "k": k,
            "alpha": problem.alpha,
            "beta": beta,
            "sigma": sigma,
            "seed": torch.arange(len(beta)).unsqueeze(-1),
            "iterations": settings.iterations,
            "gap": problem.gap(theta),
            "bound": bound[-1],
            "status": diverged,
            "mean_gradient2": mean2[-1],
            "least_gradient": least,
            "largest_entry": largest,
            "epsilon": epsilon,
        },
        least.shape,
    )
    return _Found(mean2, least, bound, largest, diverged)


def _with_noise(settings: Settings, sigma: float, found: _Found) -> Statement:
    """Return the bound in expectation, where the measured mean comes nearest to it."""
    ratio = (found.mean2[-1] / found.bound[-1]).reshape(len(settings.sizes), settings.trials, -1)
    size, place = divmod(int(ratio.mean(1).argmax()), len(settings.ks))
    return Statement(
        id=f"noise_{sigma!r}",
        source=_SOURCE,
        claim=r"$\mathbb{E}\frac{1}{T}\sum_t\|\nabla f(\theta_t)\|_\infty^2 \le 8\beta(f_0-f_T)/T"
        r" + 16\beta^2kB^2 + 8\varepsilon^2 + 14\sigma^2$",
        measure=rf"measured/bound, $\sigma={sigma:g}$; the largest, $k={settings.ks[place]}$",
        relation="at most",
        predicted=1.0,
        measured=mean(ratio[size, :, place].numpy()),
        trials=settings.trials,
        diverged=int(found.diverged.sum()),
    )


def _draw(outcome: Outcome, settings: Settings, found: _Found) -> None:
    """Draw the root of the mean square by T, and the least gradient by B, with the bounds."""
    ordinary = min(range(len(settings.sizes)), key=lambda i: abs(settings.sizes[i] - 1.0))
    part = slice(ordinary * settings.trials, (ordinary + 1) * settings.trials)
    for place, k in enumerate(settings.ks):
        label = rf"$k={k}$"
        drawn: tuple[tuple[Role, Tensor], ...]
        drawn = ("measured", found.mean2), ("bound", found.bound)
        for role, values in drawn:
            roots = values[:, part, place].sqrt()
            for t, each in enumerate(roots, 1):
                outcome.draw("iterations", label, role, t, float(each.mean()))
        for size in range(len(settings.sizes)):
            part_of = slice(size * settings.trials, (size + 1) * settings.trials)
            x = float(found.largest[part_of, place].mean())
            least = mean(found.least[part_of, place].numpy())
            outcome.draw("size", label, "measured", x, least.value, least.low, least.high)
            y = float(found.bound[-1, part_of, place].sqrt().mean())
            outcome.draw("size", label, "bound", x, y)
