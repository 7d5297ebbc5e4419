"""Lemmas 1-6 and Corollary 2 as inequalities on random instances, and where they end."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from acdc.sparsity.selection import top_k_rows
from theory import experiment
from theory.experiment import Condition, Count, Counts, Positive, Size, Trials, Weights
from theory.iht import hard_threshold
from theory.inequalities import (
    ENSEMBLES,
    Point,
    Sides,
    equal_magnitudes,
    exceeds,
    nearest_minimiser,
    vectors,
)
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.base import sparse_vectors
from theory.problems.quadratic import rotated_quadratics
from theory.problems.sine import cpl_constant, sine_squares
from theory.rates import lemma1_factor
from theory.statistics import mean, proportion

# Parts of the instances of Lemma 1 of each kind; each part has its own k and k*.
_PARTS = 25


class Settings(experiment.Settings):
    """Random instances of each lemma."""

    trials: Trials = Field(150, description="Instances of each kind.")
    lengths: Counts = Field((8, 32, 128), description="Lengths of the vectors of Lemma 1.")
    n: Size = Field(48, description="Dimension of F1 (Lemmas 2-4) and of Lemma 5's gradients.")
    k: Count = Field(8, description="Kept entries there.")
    k_star: Count = Field(3, description="Non-zeros of the minimisers of F1.")
    kappa_most: Condition = Field(100.0, description="Largest condition number of F1; log-uniform.")
    spread: Positive = Field(10.0, description="Lemma 5: entries of v - grad f over the noise's.")
    draws: Count = Field(200, description="Lemma 5: draws of the noise for each instance.")
    weights: Weights = (0.0, 0.5, 1.2, 2.0, 3.0)
    """Lemma 6: weights c of the sine in h and F2; for c = 0 it is an equality of h."""
    squares: Counts = Field((1, 4, 16), description="Lemma 6: numbers m of squares of F2; N = 8 m.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.lengths[0] >= 2, "lengths", "numbers of at least 2")
        self.require(self.k < self.n, "k", f"less than n = {self.n}")
        self.require(self.k_star <= self.k, "k_star", f"at most k = {self.k}")
        return self


def run(settings: Settings) -> Outcome:
    """Check each lemma on random instances."""
    outcome = Outcome("lemmas", settings)
    _lemma1(outcome, settings)
    _lemmas2_to_4(outcome, settings)
    _lemma5(outcome, settings)
    _lemma6(outcome, settings)
    return outcome


def _record(
    outcome: Outcome,
    lemma: str,
    case: str,
    left: Tensor,
    right: Tensor,
    violated: Tensor | None,
    **columns: object,
) -> None:
    """Record instances (instances,) of left <= right."""
    first: dict[str, Any] = {"lemma": lemma, "case": case, "left": left, "right": right}
    # Of negative numbers the ratio says nothing.
    ratio = torch.where(right > 0.0, left / right, torch.nan)
    first |= {"violated": violated, "removed": None}
    outcome.record(left.shape, worst_ratio=ratio, bound=1.0, **(first | columns))


def _compare(
    outcome: Outcome, lemma: str, case: str, left: Tensor, right: Tensor, **columns: object
) -> Tensor:
    """Record instances of left <= right, and return the mask of violations."""
    violated = exceeds(left, right)
    _record(outcome, lemma, case, left, right, violated, **columns)
    return violated


def _lemma1(outcome: Outcome, settings: Settings) -> None:
    """Compare T_k with the best k*-sparse vector, for which the right side is least."""
    generator = stream(settings.seed, "lemmas", "1")
    violated, tight, below = [], [], []

    def draw(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=generator))

    def error(x: Tensor, k: int) -> Tensor:
        return (hard_threshold(x, k) - x).square().sum(-1)

    for ensemble, n in itertools.product(ENSEMBLES, settings.lengths):
        for x in vectors(ensemble, (settings.trials, n), generator).chunk(_PARTS):
            k_star = draw(1, n - 1)
            k = draw(k_star, n - 1)
            sizes = {"n": n, "k_star": k_star}
            left, right = error(x, k), lemma1_factor(n, k, k_star) * error(x, k_star)
            violated.append(_compare(outcome, "1", ensemble, left, right, **sizes, k=k))
            if ensemble == "equal magnitudes":
                tight.append(left / right)
            if ensemble == "Gaussian":
                k = draw(0, k_star - 1)
                left, right = error(x, k), (n - k) / (n - k_star) * error(x, k_star)
                below.append(_compare(outcome, "1, k < k*", ensemble, left, right, **sizes, k=k))
    words = {"shortest": settings.lengths[0], "longest": settings.lengths[-1]}
    outcome.state_never("lemma1", torch.cat(violated), words=words)
    ratios, fails = torch.cat(tight), torch.cat(below)
    outcome.state("lemma1_tight", mean(ratios, settings.seed), len(ratios), words=words)
    found = proportion(int(fails.sum()), len(fails))
    outcome.state("lemma1_below", found, len(fails), words=words)


def _lemmas2_to_4(outcome: Outcome, settings: Settings) -> None:
    """Try the lemmas at random points of quadratics F1, which have beta = 1."""
    generator = stream(settings.seed, "lemmas", "2-4")
    n, k, k_star, trials = settings.n, settings.k, settings.k_star, settings.trials
    uniform = torch.rand(trials, dtype=torch.float64, generator=generator)
    kappas = settings.kappa_most**uniform
    problem = rotated_quadratics(kappas.tolist(), n, k_star, generator)
    minimiser, alpha = problem.minimiser.squeeze(1), problem.alpha.squeeze(1)
    scale = 10.0 ** (3.0 * torch.rand((trials, 1), dtype=torch.float64, generator=generator) - 2.0)
    theta = scale * sparse_vectors(trials, n, k, generator)
    point = Point(theta, problem.gradient(theta.unsqueeze(1)).squeeze(1))
    about: dict[str, Any] = {"family": problem.family, "n": n, "k_star": k_star, "k": k}
    about |= {"alpha": alpha, "beta": 1.0}

    def gap(x: Tensor) -> Tensor:
        return problem.gap(x.unsqueeze(1)).squeeze(1)

    either = torch.zeros(trials, dtype=torch.bool)
    other = scale * sparse_vectors(trials, n, k, generator)
    for case, moved in (("T_k", hard_threshold(point.y, k)), ("any", other)):
        left, right = gap(moved), point.lemma2(gap(theta), moved)
        wrong = exceeds(left, right, gap(theta) + (moved - point.y).square().sum(-1))
        _record(outcome, "2", case, left, right, wrong, **about)
        either |= wrong
    outcome.state_never("lemma2", either)
    even, star = equal_magnitudes(trials, n, k, k_star, generator)
    even_about = about | {"family": None, "alpha": None}
    cases = {"F1": (point, minimiser, about), "equal magnitudes": (even, star, even_about)}
    _lemma3(outcome, settings, cases, generator)

    offset = theta - minimiser
    left = gap(theta) + 0.5 * alpha * offset.square().sum(-1)
    right = (point.gradient * offset).sum(-1)
    convexity = _compare(outcome, "4", "strong convexity", left, right, **about)
    left, right = point.gradient.square().sum(-1), 2.0 * gap(theta)
    smoothness = _compare(outcome, "4", "smoothness", left, right, **about)
    outcome.state_never("lemma4", convexity | smoothness)


def _lemma3(
    outcome: Outcome,
    settings: Settings,
    cases: Mapping[str, tuple[Point, Tensor, Mapping[str, Any]]],
    generator: torch.Generator,
) -> None:
    """Try Lemma 3 and Corollary 2 on each case: points, theta*, and their rows' columns."""
    k, k_star, trials = settings.k, settings.k_star, settings.trials
    factor = 2.0 * k_star / (k + k_star)
    third: list[Sides] = []
    second: dict[str, Sides] = {}
    for case, (point, star, about) in cases.items():
        moved = hard_threshold(point.y, k)
        proof = (star != 0.0) | (hard_threshold(point.gradient, k_star) != 0.0)
        share, first = torch.rand((2, trials, 1), dtype=torch.float64, generator=generator)
        drawn = torch.rand(proof.shape, dtype=torch.float64, generator=generator) < 0.5 * share
        third.append(point.lemma3(moved, torch.where(first < 0.5, proof, drawn), moved))
        second[case] = point.lemma3(moved, proof, star, factor)
        for name, each in (("3", third[-1]), ("corollary 2", second[case])):
            columns = {**about, "removed": each.removed}
            _record(outcome, name, case, each.left, each.right, each.violated, **columns)
    # Without an R, Lemma 3 says nothing.
    violated = torch.cat([sides.violated[sides.removed > 0] for sides in third])
    settings.require(len(violated) > 0, "trials", "more, such that Lemma 3 has instances")
    outcome.state_never("lemma3", violated)
    ratios = " and ".join(f"{float(x.ratio.max()):.4g} ({case})" for case, x in second.items())
    violated = torch.cat([sides.violated for sides in second.values()])
    outcome.state_never("corollary2", violated, words={"ratios": ratios})


def _lemma5(outcome: Outcome, settings: Settings) -> None:
    """Compare a noisy square on a set with the true one, in units of the noise's variance."""
    generator = stream(settings.seed, "lemmas", "5")
    n, trials = settings.n, settings.trials
    kept = n // 2
    signs = 2.0 * torch.randint(0, 2, (trials, 1, n), generator=generator) - 1.0
    away = signs.double() * settings.spread / n**0.5
    draws = (trials, settings.draws, n)
    noisy = away - torch.randn(draws, dtype=torch.float64, generator=generator) / n**0.5
    order = torch.rand((trials, 1, n), dtype=torch.float64, generator=generator).argsort(-1)
    excess = {}
    for case, chosen in {
        "fixed": (order < kept).expand(draws),
        "chosen from g": top_k_rows(noisy, kept, magnitudes=True),
    }.items():
        square = torch.where(chosen, noisy, 0.0).square().sum(-1).mean(-1)
        true = torch.where(chosen, away, 0.0).square().sum(-1).mean(-1)
        # A sample mean above an expectation is no violation.
        _record(outcome, "5", case, square, true + 1.0, None, n=n, k=kept, sigma=1.0)
        excess[case] = mean(square - true, settings.seed)
    cases = {"upper": "fixed", "lower": "fixed", "chosen": "chosen from g"}
    for name, case in cases.items():
        outcome.state(f"lemma5_{name}", excess[case], trials, words={"kept": kept})


def _lemma6(outcome: Outcome, settings: Settings) -> None:
    """Try quadratic growth on h(x) = x^2 + c sin^2 x, and on F2."""
    generator = stream(settings.seed, "lemmas", "6")
    trials = settings.trials
    scalar, several = [], []

    def magnitudes() -> Tensor:
        uniform = torch.rand((trials, 1), dtype=torch.float64, generator=generator)
        return 10.0 ** (6.0 * uniform - 3.0)

    for weight in settings.weights:
        x = magnitudes().squeeze(-1)
        alpha = cpl_constant(weight)
        left, right = alpha / 8.0 * x.square(), x.square() + weight * x.sin().square()
        case = f"h, c = {weight:g}"
        scalar.append(_compare(outcome, "6", case, left, right, n=1, k=1, alpha=alpha))
        for m in settings.squares:
            problem = sine_squares(trials, weight, 0.5, 8 * m, m, generator)
            step = torch.randn((trials, 1, 8 * m), dtype=torch.float64, generator=generator)
            theta = problem.minimiser + magnitudes().unsqueeze(-1) * step
            distance2 = nearest_minimiser(problem, theta).squeeze(-1)
            left, right = alpha / 8.0 * distance2, problem.gap(theta).squeeze(-1)
            columns = {"family": problem.family, "n": 8 * m, "k_star": m, "k": m, "alpha": alpha}
            case = f"F2, c = {weight:g}"
            several.append(_compare(outcome, "6", case, left, right, **columns))
    words = {"lightest": settings.weights[0], "heaviest": settings.weights[-1]}
    outcome.state_never("lemma6_scalar", torch.cat(scalar), words=words)
    sizes = {"smallest": 8 * settings.squares[0], "largest": 8 * settings.squares[-1]}
    outcome.state_never("lemma6", torch.cat(several), words={**words, **sizes})
