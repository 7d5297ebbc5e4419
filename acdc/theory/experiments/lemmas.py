"""Lemmas 1-6 and Corollary 2 as inequalities on random instances, and where they end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from acdc.selection import top_k_rows
from acdc.theory import experiment
from acdc.theory.experiment import Counts, Outcome
from acdc.theory.experiments.t1_rate import Weight
from acdc.theory.iht import hard_threshold
from acdc.theory.noise import stream
from acdc.theory.problems import (
    SineSquares,
    cpl_constant,
    rotated_quadratics,
    sine_squares,
    sparse_vectors,
)
from acdc.theory.statistics import Statement, mean, never, proportion

ENSEMBLES = ("Gaussian", "heavy-tailed", "equal magnitudes", "sparse")
# Relative room for rounding.
ROOM = 1e-11


class Settings(experiment.Settings):
    """Random instances of each lemma."""

    trials: int = Field(default=150, ge=2)
    """Instances of each kind."""
    lengths: Counts = (8, 32, 128)
    """Lengths of the vectors of Lemma 1."""
    n: int = Field(default=48, ge=2)
    """Dimension of the quadratics F1 (Lemmas 2-4), and of the gradients of Lemma 5."""
    k: int = Field(default=8, ge=1)
    """Kept entries there."""
    k_star: int = Field(default=3, ge=1)
    """Non-zeros of the minimisers of F1."""
    kappa_most: float = Field(default=100.0, ge=1)
    """Condition numbers of F1, at most; log-uniform."""
    spread: float = Field(default=10.0, gt=0)
    """Lemma 5: magnitude of each entry of v - grad f, over that of the noise."""
    draws: int = Field(default=200, ge=1)
    """Lemma 5: draws of the noise for each instance."""
    weights: tuple[Weight, ...] = Field(default=(0.5, 1.2, 2.0, 3.0), min_length=1)
    """Lemma 6: weights c of the sine in h and F2."""
    squares: Counts = (1, 4, 16)
    """Lemma 6: numbers m of squares of F2, which has N = 8 m."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(self.lengths[0] >= 2, "lengths", "numbers of at least 2")
        self.require(self.k < self.n, "k", f"less than n = {self.n}")
        self.require(self.k_star <= self.k, "k_star", f"at most k = {self.k}")
        return self


def run(settings: Settings) -> Outcome:
    """Check each lemma on random instances."""
    outcome = Outcome()
    _lemma1(outcome, settings)
    _lemmas2_to_4(outcome, settings)
    _lemma5(outcome, settings)
    _lemma6(outcome, settings)
    return outcome


def vectors(ensemble: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw random vectors of one of `ENSEMBLES`, (..., n)."""
    normal = torch.randn(shape, dtype=torch.float64, generator=generator)
    other = torch.randn(shape, dtype=torch.float64, generator=generator)
    if ensemble == "heavy-tailed":
        return normal / other
    if ensemble == "equal magnitudes":
        return torch.where(normal > 0.0, 1.0, -1.0).to(normal)
    if ensemble == "sparse":
        return torch.where(other > 1.0, normal, 0.0)
    return normal


def exceeds(left: Tensor, right: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return where left is larger than right, by more than rounding at a scale."""
    return left - right > ROOM * (right if scale is None else scale).abs()


def nearest_minimiser(problem: SineSquares, theta: Tensor) -> Tensor:
    """Return the squared distance to the nearest minimiser of F2, ||A^+ (A theta - b)||^2.

    Args:
        problem: instances (count,).
        theta: (count, any, N).
    """
    residual = problem.residual(theta).mT
    gram = torch.eye(residual.shape[-2], dtype=torch.float64) + problem.tail @ problem.tail.mT
    multipliers: Tensor = torch.linalg.solve(gram, residual)
    return (residual * multipliers).sum(-2)


def _add(
    outcome: Outcome,
    lemma: str,
    case: str,
    left: Tensor,
    right: Tensor,
    violated: Tensor,
    columns: Mapping[str, object],
) -> None:
    """Add a row for each instance, (instances,)."""
    outcome.trials += experiment.rows(
        {
            **{"family": None, "n": None, "k_star": None, "k": None, "alpha": None, "beta": None},
            **{"sigma": None, "seed": torch.arange(len(left)), "iterations": None, "gap": None},
            # Of an inequality between negative numbers the ratio says nothing.
            "worst_ratio": torch.where(right > 0.0, left / right, torch.nan),
            "bound": 1.0,
            "status": "finished",
            **{"lemma": lemma, "case": case, "left": left, "right": right, "violated": violated},
            **columns,
        },
        left.shape,
    )


def _lemma1(outcome: Outcome, settings: Settings) -> None:
    generator = stream(settings.seed, "lemmas", "1")
    violated, tight, below = [], [], []
    for ensemble in ENSEMBLES:
        for n in settings.lengths:
            x = vectors(ensemble, (settings.trials, n), generator)
            uniform = torch.rand((3, settings.trials), dtype=torch.float64, generator=generator)
            k_star = 1 + (uniform[0] * (n - 1)).long()
            k = k_star + (uniform[1] * (n - k_star)).long()
            left = (hard_threshold(x, k) - x).square().sum(-1)
            best = (hard_threshold(x, k_star) - x).square().sum(-1)
            factor = (n - k).double() / (n - k_star).double()
            # A k*-sparse vector with a random support, best there, and one that is not.
            order = torch.rand(x.shape, dtype=torch.float64, generator=generator).argsort(-1)
            kept = order < k_star.unsqueeze(-1)
            nearest = torch.where(kept, 0.0, x).square().sum(-1)
            other = torch.where(kept, vectors(ensemble, x.shape, generator), 0.0)
            distances = torch.stack([best, nearest, (other - x).square().sum(-1)])
            wrong = exceeds(left, factor * distances).any(0)
            _add(
                outcome,
                *("1", ensemble, left, factor * best, wrong),
                {"n": n, "k_star": k_star, "k": k},
            )
            violated.append(wrong)
            if ensemble == "equal magnitudes":
                tight.append(left / (factor * best))
            if ensemble == "Gaussian":
                k = (uniform[2] * k_star).long()
                left = (hard_threshold(x, k) - x).square().sum(-1)
                right = (n - k).double() / (n - k_star).double() * best
                wrong = exceeds(left, right)
                _add(
                    outcome,
                    *("1, k < k*", ensemble, left, right, wrong),
                    {"n": n, "k_star": k_star, "k": k},
                )
                below.append(wrong)
    inequality = r"$\|T_k(x)-x\|^2 \le \frac{n-k}{n-k^\ast}\|x^\ast-x\|^2$"
    lengths = rf"$n$ from {settings.lengths[0]} to {settings.lengths[-1]}"
    outcome.statements += [
        never(
            id="lemma1",
            source="Lemma 1",
            claim=inequality + r" for $k^\ast$-sparse $x^\ast$, $k^\ast \le k \le n$",
            measure="vectors for which the best, or a random, $k^\\ast$-sparse $x^\\ast$ violates "
            f"it ({', '.join(ENSEMBLES)}; {lengths})",
            violations=_count(violated),
            trials=_size(violated),
        ),
        Statement(
            id="lemma1_tight",
            source="Lemma 1",
            claim="it is an equality for equal magnitudes",
            measure=f"left side over right side, with the best $x^\\ast$ ({lengths})",
            relation="equals",
            predicted=1.0,
            tolerance=1e-12,
            measured=mean(torch.cat(tight).numpy(), settings.seed),
            trials=_size(tight),
        ),
    ]
    outcome.statements.append(
        Statement(
            id="lemma1_below",
            source="Lemma 1",
            claim=r"for $k < k^\ast$, which it leaves out, the inequality fails",
            measure=f"Gaussian vectors that violate it with the best $x^\\ast$ ({lengths})",
            relation="equals",
            predicted=1.0,
            tolerance=0.05,
            measured=proportion(_count(below), _size(below)),
            trials=_size(below),
        )
    )


def _lemmas2_to_4(outcome: Outcome, settings: Settings) -> None:
    generator = stream(settings.seed, "lemmas", "2-4")
    n, k, k_star, trials = settings.n, settings.k, settings.k_star, settings.trials
    uniform = torch.rand(trials, dtype=torch.float64, generator=generator)
    kappas = settings.kappa_most**uniform
    problem = rotated_quadratics(kappas.tolist(), n, k_star, generator)
    minimiser, alpha = problem.minimiser.squeeze(1), problem.alpha.squeeze(1)
    # beta = 1 for all of them.
    scale = 10.0 ** (3.0 * torch.rand((trials, 1), dtype=torch.float64, generator=generator) - 2.0)
    theta = scale * sparse_vectors(trials, n, k, generator)
    gradient = problem.gradient(theta.unsqueeze(1)).squeeze(1)
    y = theta - gradient
    about: dict[str, object] = {"family": problem.family, "n": n, "k_star": k_star, "k": k}
    about |= {"alpha": alpha, "beta": 1.0}

    def gap(x: Tensor) -> Tensor:
        return problem.gap(x.unsqueeze(1)).squeeze(1)

    def square(x: Tensor, on: Tensor) -> Tensor:
        return torch.where(on, x, 0.0).square().sum(-1)

    support = theta != 0.0
    projected = hard_threshold(y, k)
    other = scale * sparse_vectors(trials, n, k, generator)
    found: dict[str, list[Tensor]] = {"2": [], "3": [], "corollary 2": [], "4": []}
    for case, moved in (("T_k", projected), ("any", other)):
        union = support | (moved != 0.0)
        left = gap(moved)
        right = gap(theta) - 0.5 * square(gradient, union) + 0.5 * square(moved - y, union)
        wrong = exceeds(left, right, gap(theta) + square(moved - y, union))
        _add(outcome, "2", case, left, right, wrong, about)
        found["2"].append(wrong)

    extra = (minimiser != 0.0) | (hard_threshold(gradient, k_star) != 0.0)
    union = support | (projected != 0.0) | extra
    left = 0.5 * square(projected - y, union) - 0.5 * square(gradient, union)
    rest = 0.5 * square(gradient, support | extra)
    dropped = support & (projected == 0.0)
    count = ((projected != 0.0) & ~(support | extra)).sum(-1)
    for name, compared, factor in (
        ("3", projected - y, 1.0),
        ("corollary 2", minimiser - y, 2.0 * k_star / (k + k_star)),
    ):
        # Of the sets R that the proof allows, that which leaves the least on the right.
        scores = torch.where(dropped, compared.abs(), -torch.inf)
        removed = top_k_rows(scores, count) & dropped
        right = 0.5 * factor * square(compared, union & ~removed) - rest
        wrong = exceeds(left, right, rest + square(compared, union))
        _add(outcome, name, "T_k", left, right, wrong, about)
        found[name].append(wrong)

    offset = theta - minimiser
    left = gap(theta) + 0.5 * alpha * offset.square().sum(-1)
    right = (gradient * offset).sum(-1)
    wrong = exceeds(left, right)
    _add(outcome, "4", "strong convexity", left, right, wrong, about)
    left, right = gradient.square().sum(-1), 2.0 * gap(theta)
    _add(outcome, "4", "smoothness", left, right, exceeds(left, right), about)
    found["4"] += [wrong, exceeds(left, right)]

    claims = {
        "2": r"$f(\theta') \le f(\theta) - \frac{1}{2\beta}\|\nabla f(\theta)_{S\cup S'}\|^2 + "
        r"\frac{\beta}{2}\|[\theta'-(\theta-\nabla f(\theta)/\beta)]_{S\cup S'}\|^2$ for "
        r"$k$-sparse $\theta, \theta'$",
        "3": r"$\theta' = T_k(y)$, $y=\theta-\nabla f/\beta$: the bound of Lemma 2 on "
        r"$I = S\cup S'\cup X$ is at most "
        r"$-\frac{1}{2\beta}\|\nabla f_{S\cup X}\|^2 + "
        r"\frac{\beta}{2}\|[\theta'-y]_{I\setminus R}\|^2$",
        "corollary 2": r"with $X = S^\ast\cup H$ it is at most "
        r"$-\frac{1}{2\beta}\|\nabla f_{S\cup X}\|^2 + "
        r"\frac{\beta}{2}\frac{2k^\ast}{k+k^\ast}\|[\theta^\ast-y]_{I\setminus R}\|^2$",
        "4": r"$\langle\nabla f,\theta-\theta^\ast\rangle \ge f-f^\ast+\frac{\alpha}{2}"
        r"\|\theta-\theta^\ast\|^2$ and $\|\nabla f_U\|^2 \le 2\beta(f-f^\ast)$",
    }
    for name, wrongs in found.items():
        outcome.statements.append(
            never(
                id=name.replace(" ", "") if " " in name else f"lemma{name}",
                source=name.capitalize() if " " in name else f"Lemma {name}",
                claim=claims[name],
                measure=rf"instances that violate it (F1, $N={n}$, $k={k}$, $k^\ast={k_star}$, "
                rf"$\beta/\alpha \le {settings.kappa_most:g}$)",
                violations=_count(wrongs),
                trials=_size(wrongs),
                note="For the set R, of those that the proof allows, for which it is hardest."
                if name in ("3", "corollary 2")
                else "",
            )
        )


def _lemma5(outcome: Outcome, settings: Settings) -> None:
    generator = stream(settings.seed, "lemmas", "5")
    n, trials = settings.n, settings.trials
    kept = n // 2
    # In units in which the noise has variance 1, and one entry of it 1/n.
    signs = 2.0 * torch.randint(0, 2, (trials, 1, n), generator=generator) - 1.0
    away = signs.double() * settings.spread / n**0.5
    draws = (trials, settings.draws, n)
    noisy = away - torch.randn(draws, dtype=torch.float64, generator=generator) / n**0.5
    order = torch.rand((trials, 1, n), dtype=torch.float64, generator=generator).argsort(-1)
    sets = {
        "fixed": (order < kept).expand(draws),
        "chosen from g": top_k_rows(noisy, kept, magnitudes=True),
    }
    excess = {}
    for case, chosen in sets.items():
        square = torch.where(chosen, noisy, 0.0).square().sum(-1).mean(-1)
        true = torch.where(chosen, away, 0.0).square().sum(-1).mean(-1)
        _add(
            outcome,
            *("5", case, square, true + 1.0, square > true + 1.0),
            {"n": n, "k": kept, "sigma": 1.0},
        )
        excess[case] = mean((square - true).numpy(), settings.seed)
    measure = (
        r"$(\mathbf{E}\|(v-g)_S\|^2 - \|(v-\nabla f)_S\|^2)/\sigma^2$ "
        rf"($N={n}$, $|S|={kept}$, entries of $v-\nabla f$ {settings.spread:g} times the noise's)"
    )
    upper = r"$\mathbf{E}\|(v-g)_S\|^2 \le \|(v-\nabla f)_S\|^2 + \sigma^2$"
    outcome.statements += [
        Statement(
            id="lemma5_upper",
            source="Lemma 5",
            measure=measure,
            claim=upper + " for a fixed set $S$",
            relation="at most",
            predicted=1.0,
            measured=excess["fixed"],
            trials=trials,
        ),
        Statement(
            id="lemma5_lower",
            source="Lemma 5",
            measure=measure,
            claim=r"$\|(v-\nabla f)_S\|^2 \le \mathbf{E}\|(v-g)_S\|^2$ for a fixed set $S$",
            relation="at least",
            predicted=0.0,
            measured=excess["fixed"],
            trials=trials,
        ),
        Statement(
            id="lemma5_chosen",
            source="Lemma 5",
            measure=measure,
            claim=upper + ", in expectation, for the $S$ that $T_k(v-g)$ keeps",
            relation="at most",
            predicted=1.0,
            measured=excess["chosen from g"],
            note="The lemma does not cover it. The proof of Theorem 2, as reconstructed, uses it "
            "for a set that depends on the noise.",
            trials=trials,
        ),
    ]


def _lemma6(outcome: Outcome, settings: Settings) -> None:
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
        wrong = exceeds(left, right)
        case = f"h, c = {weight:g}"
        _add(outcome, "6", case, left, right, wrong, {"n": 1, "k": 1, "alpha": alpha})
        scalar.append(wrong)
        for m in settings.squares:
            problem = sine_squares(trials, weight, 0.5, 8 * m, m, generator)
            step = torch.randn((trials, 1, 8 * m), dtype=torch.float64, generator=generator)
            theta = problem.minimiser + magnitudes().unsqueeze(-1) * step
            distance2 = nearest_minimiser(problem, theta).squeeze(-1)
            left, right = alpha / 8.0 * distance2, problem.gap(theta).squeeze(-1)
            wrong = exceeds(left, right)
            _add(
                outcome,
                *("6", f"F2, c = {weight:g}", left, right, wrong),
                {"family": problem.family, "n": 8 * m, "k_star": m, "k": m, "alpha": alpha},
            )
            several.append(wrong)
    weights = rf"$c$ from {min(settings.weights):g} to {max(settings.weights):g}"
    growth = r"$f(\theta)-f^\ast \ge \frac{\alpha}{8}\|\theta-\bar\theta\|^2$"
    outcome.statements += [
        never(
            id="lemma6_scalar",
            source="Lemma 6",
            claim=growth + r", $f = h$, $h(x) = x^2 + c\sin^2 x$",
            measure=rf"points $x$ that violate it ({weights}, $10^{{-3}} \le |x| \le 10^3$)",
            violations=_count(scalar),
            trials=_size(scalar),
        ),
        never(
            id="lemma6",
            source="Lemma 6",
            claim=growth + r" for the nearest minimiser $\bar\theta$",
            measure=rf"points $\theta$ that violate it (F2, {weights}, "
            rf"$N$ from {8 * settings.squares[0]} to {8 * settings.squares[-1]})",
            violations=_count(several),
            trials=_size(several),
            note=r"The nearest minimiser, $\|\theta-\bar\theta\| = \|A^+(A\theta-b)\|$, is not the "
            "sparse one.",
        ),
    ]


def _count(parts: list[Tensor]) -> int:
    return int(torch.cat(parts).sum())


def _size(parts: list[Tensor]) -> int:
    return torch.cat(parts).numel()
