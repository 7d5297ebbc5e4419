"""Iterative hard thresholding on many problems at once (paper Section 3.1, Eq. 2 and 3).

Tensors are float64 of shape (..., N): each leading index is a trial, and trials of one problem
share its matrices by broadcasting. A value that differs between trials (k, step size) is a tensor
that broadcasts to (...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from acdc.sparsity.selection import top_k_rows
from theory.problems.base import Gradient, Problem

Watch = Callable[[Tensor], Mapping[str, Tensor]]
"""Measures iterates: (..., N) to quantities of shape (...)."""

# Squares of larger entries overflow; an iterate with such an entry has diverged.
LARGEST = 1e150


def no_watch(theta: Tensor) -> dict[str, Tensor]:
    """Measure nothing of the iterates."""
    return {}


def watch_gap(problem: Problem) -> Watch:
    """Return the watch of f - f*."""
    return lambda theta: {"gap": problem.gap(theta)}


def watch_errors(problem: Problem) -> Watch:
    """Return the watch of f - f* and of ||theta - theta*||^2."""
    return lambda theta: {
        "gap": problem.gap(theta),
        "distance2": (theta - problem.minimiser).square().sum(-1),
    }


def hard_threshold(x: Tensor, k: int | Tensor) -> Tensor:
    """Return T_k(x): the k entries of largest magnitude of each (N,), ties to the lower index.

    Selects by ``selection.top_k_rows``, as the training methods do.

    Raises:
        ValueError: k is not between 0 and N, or x has NaN, which has no magnitude to rank.
    """
    check_k(k, x.shape[-1])
    if bool(torch.isnan(x).any()):
        raise ValueError("x has NaN entries, which have no magnitude to rank")
    return torch.where(top_k_rows(x, k, magnitudes=True), x, 0.0)


def check_k(k: int | Tensor, n: int) -> None:
    """Check a number of kept entries.

    Raises:
        ValueError: k is not between 0 and N.
    """
    least, most = (k, k) if isinstance(k, int) else (int(k.min()), int(k.max()))
    if least < 0 or most > n:
        raise ValueError(f"k = {least if least < 0 else most}: expected 0 <= k <= N = {n}")


def per_trial(value: float | Tensor) -> float | Tensor:
    """Return a value (...) as (..., 1), which broadcasts against vectors (..., N)."""
    return value.unsqueeze(-1) if isinstance(value, Tensor) else value


@dataclass
class Trace:
    """The path of trials of shape (...)."""

    last: Tensor
    """The last iterates, (..., N); where a trial diverged, the last one before."""
    diverged_at: Tensor
    """The iteration in which each trial diverged, -1 where it did not, (...)."""
    watched: dict[str, Tensor] = field(default_factory=dict)
    """Each quantity at the start and after each iteration, (iterations + 1, ...); infinite from
    divergence on."""

    @property
    def diverged(self) -> Tensor:
        """The mask of trials that diverged, (...)."""
        return self.diverged_at >= 0


def iterate(
    step: Callable[[Tensor], Tensor], start: Tensor, iterations: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the iterates after each step, and the mask of trials that have diverged so far.

    A trial diverges when an entry exceeds 1e150 in magnitude or is NaN. It keeps its last iterate;
    the other trials continue.

    Args:
        step: from iterates to the next ones, (..., N).
        start: the first iterates, which are not yielded.
        iterations: number of steps.
    """
    theta = start
    diverged = torch.zeros(start.shape[:-1], dtype=torch.bool, device=start.device)
    for _ in range(iterations):
        moved = step(theta)
        # Also true of NaN.
        diverged = diverged | ~(moved.abs().amax(-1) <= LARGEST)
        theta = torch.where(diverged.unsqueeze(-1), theta, moved)
        yield theta, diverged


def trace(
    step: Callable[[Tensor], Tensor], start: Tensor, iterations: int, watch: Watch = no_watch
) -> Trace:
    """Iterate and measure every iterate; see `iterate`."""
    watched = {name: [values] for name, values in watch(start).items()}
    diverged_at = torch.full(start.shape[:-1], -1)
    theta = start
    for t, (theta, diverged) in enumerate(iterate(step, start, iterations), 1):
        diverged_at = torch.where(diverged & (diverged_at < 0), t, diverged_at)
        for name, values in watch(theta).items():
            watched[name].append(torch.where(diverged, torch.inf, values))
    return Trace(theta, diverged_at, {name: torch.stack(each) for name, each in watched.items()})


def iht_step(
    gradient: Gradient, k: int | Tensor, step_size: float | Tensor
) -> Callable[[Tensor], Tensor]:
    """Return theta -> T_k(theta - step_size * g(theta)) (paper Eq. 2; Eq. 3 if g is stochastic).

    NaN counts as infinite.
    """
    eta = per_trial(step_size)

    def step(theta: Tensor) -> Tensor:
        return prune(theta - eta * gradient(theta), k)

    return step


def prune(x: Tensor, k: int | Tensor) -> Tensor:
    """Return T_k(x), where NaN, which has no magnitude to rank, counts as infinite."""
    ranked = torch.nan_to_num(x, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return torch.where(top_k_rows(ranked, k, magnitudes=True), ranked, 0.0)


def iht(
    gradient: Gradient,
    start: Tensor,
    k: int | Tensor,
    step_size: float | Tensor,
    iterations: int,
    watch: Watch = no_watch,
) -> Trace:
    """Iterate theta <- T_k(theta - step_size * g(theta)) from ``start`` for all trials at once.

    Args:
        gradient: exact or stochastic.
        start: theta_0, (..., N).
        k: kept entries, by trial.
        step_size: eta, by trial.
        iterations: number of steps.
        watch: measures each iterate.

    Raises:
        ValueError: k is not between 0 and N, or the step size is not above 0.
    """
    check_k(k, start.shape[-1])
    if not bool((torch.as_tensor(step_size) > 0).all()):
        raise ValueError(f"step_size = {step_size}: expected more than 0")
    return trace(iht_step(gradient, k, step_size), start, iterations, watch)


def restrict(gradient: Gradient, support: Tensor) -> Gradient:
    """Return the gradient on a support, a mask (..., N), and zero elsewhere."""
    return lambda theta: torch.where(support, gradient(theta), 0.0)


def on_support(gradient: Gradient, theta: Tensor, step_size: float | Tensor, steps: int) -> Tensor:
    """Return theta after gradient steps on its own support (the sparse phase of AC/DC)."""
    descend = restrict(gradient, theta != 0)
    for _ in range(steps):
        theta = theta - per_trial(step_size) * descend(theta)
    return theta


@dataclass(frozen=True)
class Phases:
    """The alternation of AC/DC as in Corollary 1.

    A dense phase makes ``passes`` passes over the parts (mini-batches) of f with one step of size
    eta / (passes * parts) per part, where eta = step_size. T_k follows, and then a sparse phase of
    ``sparse_steps`` full-gradient steps of size ``sparse_step_size`` on the kept support.
    """

    step_size: float | Tensor
    passes: int = 1
    sparse_steps: int = 0
    sparse_step_size: float | Tensor = 1.0

    def __post_init__(self) -> None:
        if not bool((torch.as_tensor(self.step_size) > 0).all()):
            raise ValueError(f"step_size = {self.step_size}: expected more than 0")
        if self.passes < 1:
            raise ValueError(f"passes = {self.passes}: expected at least 1")
        if self.sparse_steps < 0:
            raise ValueError(f"sparse_steps = {self.sparse_steps}: expected at least 0")

    def dense(self, parts: list[Gradient], theta: Tensor) -> Tensor:
        """Return theta after a dense phase, (..., N)."""
        eta = per_trial(self.step_size) / (self.passes * len(parts))
        for _ in range(self.passes):
            for gradient in parts:
                theta = theta - eta * gradient(theta)
        return theta

    def step(
        self, parts: list[Gradient], gradient: Gradient, k: int | Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return the map of one dense and one sparse phase.

        Args:
            parts: gradients of the mini-batches, in the order of a pass.
            gradient: full gradient, for the sparse phase.
            k: kept entries.

        Raises:
            ValueError: there are no parts.
        """
        if not parts:
            raise ValueError("parts: expected at least one")

        def step(theta: Tensor) -> Tensor:
            pruned = prune(self.dense(parts, theta), k)
            return on_support(gradient, pruned, self.sparse_step_size, self.sparse_steps)

        return step
