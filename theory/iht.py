"""Iterative hard thresholding on many problems at once (paper Section 3.1, Eq. 2 and 3).

Tensors are float64 of shape (..., N): each leading index is a trial, and trials that share a
problem share its matrices by broadcasting. Whatever differs between trials (k, step size) is a
number or a tensor that broadcasts to (...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from acdc.sparsity.selection import top_k_rows

Gradient = Callable[[Tensor], Tensor]
"""The gradient or an unbiased estimate of it, (..., N) to (..., N)."""
Watch = Callable[[Tensor], Mapping[str, Tensor]]
"""What is measured of iterates: (..., N) to quantities of shape (...)."""

# Squares of larger entries overflow; an iterate that has any is taken to have diverged.
LARGEST = 1e150


def hard_threshold(x: Tensor, k: int | Tensor) -> Tensor:
    """T_k: keep the k entries of largest magnitude of each (N,), the lower index of equal ones.

    The same selection as that of the methods that train, ``selection.top_k_rows``.

    Raises:
        ValueError: k is not between 0 and N, or x has NaN, which has no magnitude to rank.
    """
    check_k(k, x.shape[-1])
    if bool(torch.isnan(x).any()):
        raise ValueError("x has NaN entries, which have no magnitude to rank")
    return torch.where(top_k_rows(x, k, magnitudes=True), x, 0.0)


def check_k(k: int | Tensor, n: int) -> None:
    """Refuse numbers of kept entries that N entries do not have.

    Raises:
        ValueError: k is not between 0 and N.
    """
    least, most = (k, k) if isinstance(k, int) else (int(k.min()), int(k.max()))
    if least < 0 or most > n:
        raise ValueError(f"k = {least if least < 0 else most}: expected 0 <= k <= N = {n}")


def per_trial(value: float | Tensor) -> float | Tensor:
    """Return a number of each trial so that it multiplies the trial's vector."""
    return value.unsqueeze(-1) if isinstance(value, Tensor) else value


@dataclass
class Trace:
    """What was measured of an iteration of trials of shape (...)."""

    last: Tensor
    """The last iterates, (..., N); of a trial that diverged the last before that."""
    diverged_at: Tensor
    """The iteration in which each trial diverged, -1 where none, (...)."""
    watched: dict[str, Tensor] = field(default_factory=dict)
    """Each quantity after each iteration, the start's first, (iterations + 1, ...); infinite from
    the divergence on."""

    @property
    def diverged(self) -> Tensor:
        """Which trials diverged, (...)."""
        return self.diverged_at >= 0


def iterate(
    step: Callable[[Tensor], Tensor], start: Tensor, iterations: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield after each step the iterates, and which trials have diverged so far.

    A trial diverges when an entry is no longer below 1e150 in magnitude; it stays where it was
    before, and the others go on.

    Args:
        step: from iterates to the next ones, (..., N).
        start: the first iterates, which are not yielded.
        iterations: how many steps.
    """
    theta = start
    diverged = torch.zeros(start.shape[:-1], dtype=torch.bool, device=start.device)
    for _ in range(iterations):
        moved = step(theta)
        # Also true of NaN.
        diverged = diverged | ~(moved.abs().amax(-1) <= LARGEST)
        theta = torch.where(diverged.unsqueeze(-1), theta, moved)
        yield theta, diverged


def trace(step: Callable[[Tensor], Tensor], start: Tensor, iterations: int, watch: Watch) -> Trace:
    """Iterate and return what is watched of every iterate; see `iterate`."""
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

    What is not a number counts as infinite.
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
    watch: Watch,
) -> Trace:
    """Iterate theta <- T_k(theta - step_size * g(theta)) from ``start`` for all trials at once.

    Args:
        gradient: exact, or drawn afresh at every call.
        start: theta_0, (..., N).
        k: entries that are kept, by trial.
        step_size: eta, by trial.
        iterations: how many steps.
        watch: what is measured of each iterate.

    Raises:
        ValueError: k is not between 0 and N, or the step size is not above 0.
    """
    check_k(k, start.shape[-1])
    if not bool((torch.as_tensor(step_size) > 0).all()):
        raise ValueError(f"step_size = {step_size}: expected more than 0")
    return trace(iht_step(gradient, k, step_size), start, iterations, watch)


def restrict(gradient: Gradient, support: Tensor) -> Gradient:
    """Return the gradient's part on a support, a mask (..., N); the rest is zero."""
    return lambda theta: torch.where(support, gradient(theta), 0.0)


def on_support(gradient: Gradient, theta: Tensor, step_size: float | Tensor, steps: int) -> Tensor:
    """Return theta after gradient steps on the support that it has (the sparse phase of AC/DC)."""
    descend = restrict(gradient, theta != 0)
    for _ in range(steps):
        theta = theta - per_trial(step_size) * descend(theta)
    return theta


@dataclass(frozen=True)
class Phases:
    """The alternation of AC/DC as Corollary 1 has it.

    A dense phase makes ``passes`` passes over the parts (mini-batches) of f, one step each, of
    eta / (passes * parts) where eta = step_size; then T_k; then ``sparse_steps`` steps of full
    gradients on the support that was kept, of ``sparse_step_size``.
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
            gradient: of the whole, for the sparse phase.
            k: entries that are kept.

        Raises:
            ValueError: there are no parts.
        """
        if not parts:
            raise ValueError("parts: expected at least one")

        def step(theta: Tensor) -> Tensor:
            pruned = prune(self.dense(parts, theta), k)
            return on_support(gradient, pruned, self.sparse_step_size, self.sparse_steps)

        return step
