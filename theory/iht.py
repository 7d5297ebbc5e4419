"""Iterative hard thresholding on many problems at once (paper Section 3.1, Eq. 2 and 3).

Tensors are float64 of shape (..., N): each leading index is a trial, and trials of one problem
share its matrices by broadcasting. A value that differs between trials (k, step size) is a tensor
that broadcasts to (...).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acdc.sparsity.selection import top_k_rows
from theory.problems import Problem
from theory.problems.base import Gradient

Watch = Callable[[Tensor], Mapping[str, Tensor]]
"""Measures iterates: (..., N) to quantities of shape (...)."""

# Squares of larger entries overflow; an iterate with such an entry has diverged.
LARGEST = 1e150


def watch_nothing(theta: Tensor) -> dict[str, Tensor]:
    """Measure nothing."""
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

    Selects by ``selection.top_k_rows``, as the training methods do. NaN, which has no magnitude to
    rank, counts as infinite.

    Raises:
        ValueError: k is not between 0 and N.
    """
    least, most = (k, k) if isinstance(k, int) else (int(k.min()), int(k.max()))
    if least < 0 or most > x.shape[-1]:
        raise ValueError(f"k = {k}: expected 0 <= k <= N = {x.shape[-1]}")
    ranked = torch.nan_to_num(x, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return torch.where(top_k_rows(ranked, k, magnitudes=True), ranked, 0.0)


def per_trial(value: float | Tensor) -> float | Tensor:
    """Return a value (...) as (..., 1), which broadcasts against vectors (..., N)."""
    return value.unsqueeze(-1) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Trace:
    """The path of trials of shape (...)."""

    last: Tensor
    """The last iterates, (..., N); where a trial diverged, the last one before."""
    diverged: Tensor
    """The mask of trials that diverged, (...)."""
    watched: dict[str, Tensor]
    """Each quantity at the start and after each iteration, (iterations + 1, ...); infinite from
    divergence on."""


def trace(
    step: Callable[[Tensor], Tensor], start: Tensor, iterations: int, watch: Watch = watch_nothing
) -> Trace:
    """Iterate, and measure every iterate.

    A trial diverges when an entry exceeds 1e150 in magnitude or is NaN. It keeps its last iterate;
    the other trials continue.

    Args:
        step: from iterates to the next ones, (..., N).
        start: the first iterates.
        iterations: number of steps.
        watch: measures each iterate, the first included.
    """
    theta, diverged = start, torch.zeros(start.shape[:-1], dtype=torch.bool)
    watched = {name: [values] for name, values in watch(start).items()}
    for _ in range(iterations):
        moved = step(theta)
        # Also true of NaN.
        diverged = diverged | ~(moved.abs().amax(-1) <= LARGEST)
        theta = torch.where(diverged.unsqueeze(-1), theta, moved)
        for name, values in watch(theta).items():
            watched[name].append(torch.where(diverged, torch.inf, values))
    return Trace(theta, diverged, {name: torch.stack(each) for name, each in watched.items()})


def iht_step(
    gradient: Gradient, k: int | Tensor, step_size: float | Tensor
) -> Callable[[Tensor], Tensor]:
    """Return theta -> T_k(theta - step_size * g(theta)) (paper Eq. 2; Eq. 3 if g is stochastic).

    Raises:
        ValueError: the step size is not above 0.
    """
    if not bool((torch.as_tensor(step_size) > 0).all()):
        raise ValueError(f"step_size = {step_size}: expected more than 0")
    return lambda theta: hard_threshold(theta - per_trial(step_size) * gradient(theta), k)


def iht(
    gradient: Gradient,
    start: Tensor,
    k: int | Tensor,
    step_size: float | Tensor,
    iterations: int,
    watch: Watch = watch_nothing,
) -> Trace:
    """Iterate `iht_step` from theta_0 = ``start``, (..., N); see `trace`."""
    return trace(iht_step(gradient, k, step_size), start, iterations, watch)


def on_support(gradient: Gradient, theta: Tensor, step_size: float | Tensor, steps: int) -> Tensor:
    """Return theta after gradient steps on its own support (the sparse phase of AC/DC)."""
    support = theta != 0
    for _ in range(steps):
        theta = theta - per_trial(step_size) * torch.where(support, gradient(theta), 0.0)
    return theta


def dense_phase(
    parts: Sequence[Gradient], theta: Tensor, step_size: float | Tensor, passes: int = 1
) -> Tensor:
    """Return theta after a dense phase of AC/DC as in Corollary 1, (..., N).

    Args:
        parts: gradients of the mini-batches of f, in the order of a pass.
        theta: (..., N).
        step_size: eta; each part is one step of size eta / (passes * parts).
        passes: over the parts.
    """
    eta = per_trial(step_size) / (passes * len(parts))
    for _ in range(passes):
        for gradient in parts:
            theta = theta - eta * gradient(theta)
    return theta
