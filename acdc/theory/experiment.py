"""Theorem 2 on sparse least squares: loss against iteration for several k/k*, with the bound."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import click
import numpy as np

from acdc.files import write_text
from acdc.theory.iht import iht
from acdc.theory.oracles import FullGradient, GaussianNoise, GradientOracle, MiniBatch
from acdc.theory.problems import Array, LeastSquares, random_least_squares
from acdc.theory.rates import Theorem2

_STREAM = {"problem": 0, "noise": 1}
# A distance below this part of the first one is rounding error, which no theorem bounds.
_ROUNDING = 1e-20
# A one-step ratio shows the contraction only well above the floor; this many times is "well".
_ABOVE_FLOOR = 10.0


@dataclass(frozen=True)
class Settings:
    """What `run` runs: each seed's problem, from theta_0 = 0, with every oracle and every k.

    `n` and `m` are A's columns and rows; k = k_ratio * k_star; `sigmas` are the Gaussian oracle's
    noise levels and `batch_sizes` the mini-batch oracle's rows, next to the full gradient.
    `gap_tolerance` is the loss gap whose iteration is reported, and the last `floor_iterations`
    iterations are averaged into the measured floor.

    Raises ValueError where a value is not one that the experiment can use.
    """

    n: int = 1500
    m: int = 1500
    k_star: int = 5
    k_ratios: tuple[int, ...] = (1, 2, 8, 32, 256)
    kappa: float = 2.0
    sigmas: tuple[float, ...] = (0.1, 1.0)
    batch_sizes: tuple[int, ...] = (375,)
    seeds: tuple[int, ...] = (0, 1, 2)
    iterations: int = 60
    floor_iterations: int = 20
    gap_tolerance: float = 1e-8

    def __post_init__(self) -> None:
        """Refuse what would fail, or mean nothing, halfway through."""
        if self.k_star < 1:
            raise ValueError(f"k_star = {self.k_star}: expected at least 1")
        if self.n < self.k_star:
            raise ValueError(f"n = {self.n}: expected at least k_star = {self.k_star}")
        if self.m < self.n:
            raise ValueError(f"m = {self.m}: strong convexity needs at least n = {self.n} rows")
        if not 1.0 <= self.kappa < np.inf:
            raise ValueError(f"kappa = {self.kappa}: expected a finite number >= 1")
        for ratio in self.k_ratios:
            if not 1 <= ratio * self.k_star <= self.n:
                raise ValueError(
                    f"k_ratio = {ratio}: expected 1 <= k_ratio <= {self.n // self.k_star}, "
                    f"so that k = k_ratio * {self.k_star} is at most n = {self.n}"
                )
        for sigma in self.sigmas:
            if not 0.0 < sigma < np.inf:
                raise ValueError(f"sigma = {sigma}: expected a finite number > 0")
        for size in self.batch_sizes:
            if not 1 <= size <= self.m:
                raise ValueError(f"batch_size = {size}: expected 1 <= batch_size <= m = {self.m}")
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(f"seed = {seed}: expected at least 0")
        if not 1 <= self.floor_iterations <= self.iterations:
            raise ValueError(
                f"floor_iterations = {self.floor_iterations}: "
                f"expected 1 <= floor_iterations <= iterations = {self.iterations}"
            )
        if not self.gap_tolerance > 0.0:
            raise ValueError(f"gap_tolerance = {self.gap_tolerance}: expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Which run a row belongs to.

    `oracle` is full, gaussian or minibatch, and `oracle_label` adds its setting, for people.
    `sigma` is the square root of E||g - grad f||^2: the same at every theta for the Gaussian
    oracle, the largest over the run's iterates for mini-batches, for which
    `variance_is_bounded` is False: A1 fails, and Theorem 2 bounds one step but no run.
    `bound_is_vacuous`: the one-step factor is >= 1 for this k, and the theorem bounds no run.
    """

    family: str
    oracle: str
    oracle_label: str
    n: int
    m: int
    k_star: int
    k: int
    k_ratio: int
    kappa: float
    alpha: float
    beta: float
    sigma: float
    batch_size: int | None
    seed: int
    variance_is_bounded: bool
    bound_is_vacuous: bool

    @property
    def is_bounded(self) -> bool:
        """Whether Theorem 2 bounds the whole run."""
        return self.variance_is_bounded and not self.bound_is_vacuous


@dataclass(frozen=True, kw_only=True)
class CurveRow(Run):
    """One iteration: gap = f - f*, distance2 = ||theta - theta*||^2.

    The bounds are on the expectations of the two; None where the theorem bounds no run.
    """

    iteration: int
    gap: float
    distance2: float
    bound_gap: float | None
    bound_distance2: float | None


@dataclass(frozen=True, kw_only=True)
class SummaryRow(Run):
    """One run against Theorem 2.

    - `iterations_to_tolerance`: first iteration with gap <= gap_tolerance, None if there is none;
      `predicted_iterations`: when the bound gets there, None if it never does.
    - `worst_ratio`: largest D'/D over the steps that start ten times above the measured floor
      (None if there is none); `predicted_factor`: the bound's. With noise, D' holds a share of
      sigma^2 that the factor does not.
    - `violations`: steps whose D' exceeds the one-step bound with the exact variance at that
      step; the bound is true for every k. Without noise each violation is a contradiction; with
      noise the bound is on the mean, and a single draw may exceed it.
    - `floor_*`: means over the last floor_iterations iterations, whether or not the run has come
      to rest; `predicted_floor_*`: the recursion's fixed point, None where the theorem bounds no
      run; `stated_floor_*`: 2 sigma^2/(alpha beta) and sigma^2/alpha, None also unless
      `meets_condition`: k >= 64 k* (beta/alpha)^2.
    - `holds`: without noise, no violation, and the tolerance is met when predicted (if the run is
      that long); with noise, the measured floors are at most the bounds' means over the same
      iterations. None where the theorem bounds no run.
    """

    meets_condition: bool
    iterations: int
    iterations_to_tolerance: int | None
    predicted_iterations: int | None
    worst_ratio: float | None
    predicted_factor: float
    violations: int
    final_gap: float
    floor_distance2: float
    predicted_floor_distance2: float | None
    stated_floor_distance2: float | None
    floor_gap: float
    predicted_floor_gap: float | None
    stated_floor_gap: float | None
    holds: bool | None


def run(settings: Settings) -> tuple[list[CurveRow], list[SummaryRow]]:
    """Run every combination; the same settings give the same rows.

    Runs are paired: at one seed all share the problem, and all k of one oracle share its draws.
    """
    curves: list[CurveRow] = []
    summary: list[SummaryRow] = []
    for seed in settings.seeds:
        rng = np.random.default_rng([_STREAM["problem"], seed])
        problem = random_least_squares(settings.n, settings.m, settings.k_star, settings.kappa, rng)
        for k_ratio in settings.k_ratios:
            for oracle in _oracles(settings, problem, seed):
                rows, result = _one_run(settings, seed, k_ratio, problem, oracle)
                curves += rows
                summary.append(result)
    return curves, summary


def _oracles(settings: Settings, problem: LeastSquares, seed: int) -> Iterator[GradientOracle]:
    """Yield every oracle, each with the same fresh random numbers."""

    def rng() -> np.random.Generator:
        return np.random.default_rng([_STREAM["noise"], seed])

    yield FullGradient(problem)
    for sigma in settings.sigmas:
        yield GaussianNoise(problem, sigma, rng())
    for size in settings.batch_sizes:
        yield MiniBatch(problem, size, rng())


def _one_run(
    settings: Settings, seed: int, k_ratio: int, problem: LeastSquares, oracle: GradientOracle
) -> tuple[list[CurveRow], SummaryRow]:
    k = k_ratio * settings.k_star
    start = np.zeros(settings.n)
    step_size = Theorem2(problem.alpha, problem.beta, settings.k_star, k).step_size
    iterates = iht(oracle, start, k, step_size, settings.iterations)
    gap = problem.loss(iterates) - problem.minimum
    distance2 = np.sum((iterates - problem.minimiser) ** 2, axis=1)
    variance = oracle.variance(iterates[:-1])
    sigma = float(np.sqrt(np.max(variance)))
    theorem = Theorem2(problem.alpha, problem.beta, settings.k_star, k, sigma)

    identity = Run(
        family=problem.family,
        oracle=oracle.name,
        oracle_label=oracle.label,
        n=settings.n,
        m=settings.m,
        k_star=settings.k_star,
        k=k,
        k_ratio=k_ratio,
        kappa=settings.kappa,
        alpha=problem.alpha,
        beta=problem.beta,
        sigma=sigma,
        batch_size=oracle.batch_size if isinstance(oracle, MiniBatch) else None,
        seed=seed,
        variance_is_bounded=oracle.has_bounded_variance,
        bound_is_vacuous=theorem.is_vacuous,
    )
    return (
        _curve(identity, theorem, gap, distance2),
        _compare(settings, identity, theorem, gap, distance2, variance),
    )


def _curve(identity: Run, theorem: Theorem2, gap: Array, distance2: Array) -> list[CurveRow]:
    bound = theorem.distance2_bound(distance2[0], len(gap) - 1)
    bound_gap = theorem.gap_bound(distance2[0], len(gap) - 1)
    return [
        CurveRow(
            **asdict(identity),
            iteration=t,
            gap=float(gap[t]),
            distance2=float(distance2[t]),
            bound_gap=float(bound_gap[t]) if identity.is_bounded else None,
            bound_distance2=float(bound[t]) if identity.is_bounded else None,
        )
        for t in range(len(gap))
    ]


def _compare(
    settings: Settings,
    identity: Run,
    theorem: Theorem2,
    gap: Array,
    distance2: Array,
    variance: Array,
) -> SummaryRow:
    """Set one run against the theorem.

    `gap` and `distance2` are (iterations + 1,), `variance` at each step's start (iterations,).
    """
    tail = slice(-settings.floor_iterations, None)
    bound = theorem.distance2_bound(float(distance2[0]), settings.iterations)
    floor_distance2, floor_gap = float(np.mean(distance2[tail])), float(np.mean(gap[tail]))
    violations = _violations(theorem, distance2, variance)
    reached = _first_at_most(gap, settings.gap_tolerance)
    predicted = theorem.iterations_to_gap(float(distance2[0]), settings.gap_tolerance)
    if theorem.sigma == 0.0:
        holds = violations == 0 and _in_time(reached, predicted, settings.iterations)
    else:
        allowed = float(np.mean(bound[tail]))
        holds = floor_distance2 <= allowed and floor_gap <= 0.5 * theorem.beta * allowed
    bounded, stated = identity.is_bounded, identity.is_bounded and theorem.meets_condition
    return SummaryRow(
        **asdict(identity),
        meets_condition=theorem.meets_condition,
        iterations=settings.iterations,
        iterations_to_tolerance=reached,
        predicted_iterations=predicted if bounded else None,
        worst_ratio=_worst_ratio(distance2, floor_distance2),
        predicted_factor=theorem.factor,
        violations=violations,
        final_gap=float(gap[-1]),
        floor_distance2=floor_distance2,
        predicted_floor_distance2=theorem.distance2_floor if bounded else None,
        stated_floor_distance2=theorem.stated_distance2_floor if stated else None,
        floor_gap=floor_gap,
        predicted_floor_gap=theorem.gap_floor if bounded else None,
        stated_floor_gap=theorem.stated_gap_floor if stated else None,
        holds=holds if bounded else None,
    )


def _in_time(reached: int | None, predicted: int | None, iterations: int) -> bool:
    """Whether a level was reached by the predicted iteration, if the run went on that long."""
    if predicted is None or predicted > iterations:
        return True
    return reached is not None and reached <= predicted


def _violations(theorem: Theorem2, distance2: Array, variance: Array) -> int:
    """Count the steps that end further from theta* than the one-step bound."""
    bound = theorem.step_bound(distance2[:-1], variance) * (1.0 + 1e-9) + _ROUNDING * distance2[0]
    return int(np.count_nonzero(distance2[1:] > bound))


def _worst_ratio(distance2: Array, floor: float) -> float | None:
    """Largest D'/D over the steps that start well above the floor; None if there is none."""
    above = distance2[:-1] > _ABOVE_FLOOR * max(floor, _ROUNDING * distance2[0])
    ratios = distance2[1:][above] / distance2[:-1][above]
    return float(np.max(ratios)) if len(ratios) else None


def _first_at_most(values: Array, level: float) -> int | None:
    """Index of the first value at or below the level; None if there is none."""
    reached = np.flatnonzero(values <= level)
    return int(reached[0]) if len(reached) else None


def write(settings: Settings, out_dir: Path) -> tuple[Path, Path]:
    """Run, and write `iht_curves.csv` and `iht_summary.csv` into out_dir; return their paths.

    Columns are the fields of CurveRow and SummaryRow, None is an empty cell, floats have ten
    digits. Each file appears whole or not at all.
    """
    curves, summary = run(settings)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = out_dir / "iht_curves.csv", out_dir / "iht_summary.csv"
    _write_rows(paths[0], CurveRow, curves)
    _write_rows(paths[1], SummaryRow, summary)
    return paths


def _write_rows(path: Path, row_type: type[Run], rows: Sequence[Run]) -> None:
    columns = [field.name for field in fields(row_type)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(getattr(row, name)) for name in columns] for row in rows)
    write_text(path, buffer.getvalue())


def _cell(value: object) -> object:
    return f"{value:.10g}" if isinstance(value, float) else value


_DEFAULT = Settings()


@click.command("iht")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory for iht_curves.csv and iht_summary.csv; made if missing.",
)
@click.option("--n", default=_DEFAULT.n, show_default=True, help="Dimension N of theta.")
@click.option("--m", type=int, help="Rows of A, at least N.  [default: N]")
@click.option(
    "--k-star", default=_DEFAULT.k_star, show_default=True, help="Non-zeros of the minimiser."
)
@click.option(
    "--k-ratio",
    "k_ratios",
    type=int,
    multiple=True,
    default=_DEFAULT.k_ratios,
    show_default=True,
    help="k/k*, a whole number; repeat for several.",
)
@click.option(
    "--kappa", default=_DEFAULT.kappa, show_default=True, help="Condition number beta/alpha."
)
@click.option(
    "--sigma",
    "sigmas",
    type=float,
    multiple=True,
    default=_DEFAULT.sigmas,
    show_default=True,
    help="Gaussian noise, root of E||g - grad f||^2 over all N coordinates; repeat for several.",
)
@click.option(
    "--batch-size",
    "batch_sizes",
    type=int,
    multiple=True,
    help="Rows per mini-batch; repeat for several.  [default: a quarter of m]",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=len(_DEFAULT.seeds),
    show_default=True,
    help="How many seeds, counted from 0; each draws its own problem and noise.",
)
@click.option(
    "--iterations", default=_DEFAULT.iterations, show_default=True, help="Iterations of each run."
)
@click.option(
    "--floor-iterations",
    default=_DEFAULT.floor_iterations,
    show_default=True,
    help="Last iterations, averaged into the measured noise floor.",
)
def iht_command(
    out: Path,
    n: int,
    m: int | None,
    k_star: int,
    k_ratios: tuple[int, ...],
    kappa: float,
    sigmas: tuple[float, ...],
    batch_sizes: tuple[int, ...],
    seeds: int,
    iterations: int,
    floor_iterations: int,
) -> None:
    """Compare iterative hard thresholding with the rate that Theorem 2 predicts.

    Runs theta <- T_k(theta - g/beta) on sparse least squares with a known minimiser of k*
    non-zeros, for several k/k*, with full, noisy and mini-batch gradients. Where k is too small
    for the bound to say anything, its cells are empty and bound_is_vacuous is True.
    """
    rows = n if m is None else m
    try:
        settings = Settings(
            n=n,
            m=rows,
            k_star=k_star,
            k_ratios=k_ratios,
            kappa=kappa,
            sigmas=sigmas,
            batch_sizes=batch_sizes or (max(rows // 4, 1),),
            seeds=tuple(range(seeds)),
            iterations=iterations,
            floor_iterations=floor_iterations,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        paths = write(settings, out)
    except OverflowError as error:
        raise click.ClickException(str(error)) from error
    for path in paths:
        click.echo(path)
