"""Theorem 3: a sparse nearly-stationary point, without any curvature from below."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from theory import experiment
from theory.experiment import Count, Counts, Factors, Level, Sigmas, Size, Trials, Weight
from theory.iht import iht_step, on_support, trace
from theory.layout import Role
from theory.noise import gaussian, stream
from theory.outcome import Outcome
from theory.problems.sine import SineSquares, sine_squares
from theory.rates import theorem3
from theory.statistics import mean, slope


class Settings(experiment.Settings):
    """F2 from theta_0 = 0, with fewer and with more kept entries than residuals."""

    trials: Trials = Field(18, description="Problems at each size of the minimiser.")
    n: Size = Field(200, description="Dimension of theta.")
    k_star: Count = Field(20, description="Non-zeros of the minimiser, and rows of A.")
    ks: Counts = Field((2, 4, 8, 16, 32), description="Kept entries.")
    sizes: Factors = Field((0.1, 1.0, 10.0), description="Factors of the minimiser, which set B.")
    sigmas: Sigmas = Field((0.1, 1.0), description="Noise levels, beside none.")
    c: Weight = Field(1.2, description="Weight of the sine; f is not convex above 1.")
    tail: Level = Field(0.5, description="Scale of the columns beyond the first k*.")
    iterations: Size = Field(50, description="IHT steps.")
    support_steps: Count = Field(25, description="Gradient steps on the support after each.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.ks[-1] <= self.n, "ks", f"at most n = {self.n}")
        self.require(self.k_star < self.n, "k_star", f"less than n = {self.n}")
        self.require(self.sigmas[0] > 0, "sigmas", "more than 0")
        return self


def run(settings: Settings) -> Outcome:
    """Compare the gradients of sparse iterates with the bound at every number of iterations."""
    outcome = Outcome("t3", settings)
    sizes = torch.tensor(settings.sizes, dtype=torch.float64).repeat_interleave(settings.trials)
    drawn = sine_squares(
        *(len(sizes), settings.c, settings.tail, settings.n, settings.k_star),
        stream(settings.seed, "t3"),
    )
    problem = replace(drawn, minimiser=drawn.minimiser * sizes[:, None, None])
    quiet = _iterate(outcome, settings, problem, 0.0)
    noisy = {sigma: _iterate(outcome, settings, problem, sigma) for sigma in settings.sigmas}
    _draw(outcome, settings, quiet)

    violated = (quiet["mean2"] > quiet["bounds"] * (1.0 + 1e-9)).any(0)
    largest = float((quiet["mean2"][-1] / quiet["bounds"][-1]).max())
    words = {"largest": largest}
    outcome.state_never("mean_gradient", violated.any(-1), quiet["diverged"], words)
    for sigma, found in noisy.items():
        _judge_noisy(outcome, settings, sigma, found)
    few = [place for place, k in enumerate(settings.ks) if k < settings.k_star]
    least, size, diverged = (
        quiet[name][:, few] for name in ("least_gradient", "largest_entry", "diverged")
    )
    growth = slope(size[:, -1:].flatten(), least[:, -1:].flatten())
    outcome.state("size", growth, len(least[:, -1:].flatten()), diverged[:, -1:])
    ks = [settings.ks[place] for place in few]
    slopes = mean([slope(ks, each).value for each in least / size])
    outcome.state("kept", slopes, len(sizes), diverged)
    return outcome


def _iterate(
    outcome: Outcome, settings: Settings, problem: SineSquares, sigma: float
) -> dict[str, Tensor]:
    """Alternate IHT steps and optimisation on the support, and compare with the bound.

    Returns:
        Of trials (problems, ks): by the number T of iterations ``mean2``, the mean of
        ||grad f(theta_t)||_inf^2 over t < T, and its ``bounds``; ``least_gradient``,
        min_t ||grad f(theta_t)||_inf; ``largest_entry``, B; and the mask ``diverged``.
    """
    gradient = gaussian(problem.gradient, sigma, stream(settings.seed, "t3", str(sigma)))
    k, beta = torch.tensor(settings.ks), problem.beta
    iht_once = iht_step(gradient, k, 1.0 / beta if sigma == 0.0 else 0.5 / beta)

    def step(theta: Tensor) -> Tensor:
        return on_support(problem.gradient, iht_once(theta), 1.0 / beta, settings.support_steps)

    def watch(theta: Tensor) -> dict[str, Tensor]:
        slopes = problem.gradient(theta)
        on = torch.where(theta != 0, slopes, 0.0)
        return {
            "gap": problem.gap(theta),
            "gradient2": slopes.abs().amax(-1).square(),
            "size": theta.abs().amax(-1),
            "epsilon": on.square().sum(-1).sqrt(),
        }

    start = torch.zeros((len(beta), len(k), settings.n), dtype=torch.float64)
    path = trace(step, start, settings.iterations, watch)
    gap, gradient2 = path.watched["gap"], path.watched["gradient2"]
    size, epsilon = (path.watched[name].cummax(0).values[1:] for name in ("size", "epsilon"))
    counts = torch.arange(1, settings.iterations + 1)[:, None, None]
    bound = theorem3(beta, k, size, epsilon, gap[0] - gap[1:], counts, sigma)
    mean2 = gradient2[:-1].cumsum(0) / counts
    found = {
        "least_gradient": gradient2.amin(0).sqrt(),
        "largest_entry": size[-1],
        "diverged": path.diverged,
    }
    outcome.record(
        size.shape[1:],
        problem,
        k_star=settings.k_star,
        k=k,
        sigma=sigma,
        iterations=settings.iterations,
        gap=gap[-1],
        bound=bound[-1],
        mean_gradient2=mean2[-1],
        **found,
        epsilon=epsilon[-1],
    )
    return found | {"mean2": mean2, "bounds": bound}


def _judge_noisy(
    outcome: Outcome, settings: Settings, sigma: float, found: dict[str, Tensor]
) -> None:
    """Judge the bound in expectation where the measured mean comes nearest to it."""
    ratio = (found["mean2"][-1] / found["bounds"][-1]).reshape(
        len(settings.sizes), settings.trials, -1
    )
    size, place = divmod(int(ratio.mean(1).argmax()), len(settings.ks))
    largest = mean(ratio[size, :, place])
    words = {"sigma": sigma, "k": settings.ks[place]}
    outcome.state("noise_%(sigma)r", largest, settings.trials, found["diverged"], words)


def _draw(outcome: Outcome, settings: Settings, found: dict[str, Tensor]) -> None:
    """Draw the root of the mean square by T, and the least gradient by B, with the bounds."""
    ordinary = min(range(len(settings.sizes)), key=lambda i: abs(settings.sizes[i] - 1.0))
    parts = torch.arange(len(found["least_gradient"])).reshape(-1, settings.trials)
    drawn: tuple[tuple[Role, Tensor], ...] = (
        ("measured", found["mean2"]),
        ("bound", found["bounds"]),
    )
    for place, k in enumerate(settings.ks):
        line = rf"$k={k}$"
        for role, values in drawn:
            for t, each in enumerate(values[:, parts[ordinary], place].sqrt(), 1):
                outcome.draw("iterations", line, role, t, float(each.mean()))
        for part in parts:
            x = float(found["largest_entry"][part, place].mean())
            outcome.draw_interval("size", line, x, mean(found["least_gradient"][part, place]))
            y = float(found["bounds"][-1, part, place].sqrt().mean())
            outcome.draw("size", line, "bound", x, y)
