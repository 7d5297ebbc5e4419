"""Iterative hard thresholding: the operator T_k and the iteration (paper Section 3.1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from acdc.theory.problems import Array

Oracle = Callable[[Array], Array]
"""A gradient oracle: from theta to the gradient or to an unbiased estimate of it, (N,) to (N,)."""

# Squares of larger entries overflow, and a distance of infinity hides that the iteration diverges.
_LARGEST = 1e150


def top_k_support(x: Array, k: int) -> npt.NDArray[np.int64]:
    """Ascending indices (k,) of the k entries of x (N,) of largest magnitude.

    Of entries that tie for the last places, those of lowest index win. Takes O(N) time.

    Raises ValueError unless 0 <= k <= N and x has no NaN.
    """
    if not 0 <= k <= len(x):
        raise ValueError(f"k = {k}: expected 0 <= k <= {len(x)}, the length of x")
    magnitude = np.abs(x)
    if np.isnan(magnitude).any():
        raise ValueError("x has NaN entries, which have no magnitude to rank")
    if k == 0:
        return np.empty(0, dtype=np.int64)
    last = np.partition(magnitude, len(x) - k)[len(x) - k]
    kept = magnitude > last
    # A threshold alone would keep all ties, or none; the theorems need exactly k entries.
    ties = np.flatnonzero(magnitude == last)
    kept[ties[: k - np.count_nonzero(kept)]] = True
    return np.flatnonzero(kept)


def hard_threshold(x: Array, k: int) -> Array:
    """T_k: keep the k entries of x (N,) of largest magnitude, ties by lowest index; zero the rest.

    Raises ValueError unless 0 <= k <= N and x has no NaN.
    """
    kept = top_k_support(x, k)
    thresholded = np.zeros_like(x)
    thresholded[kept] = x[kept]
    return thresholded


def iht(oracle: Oracle, start: Array, k: int, step_size: float, iterations: int) -> Array:
    """Iterate theta <- T_k(theta - step_size * g(theta)) (paper Eq. 2; Eq. 3 if g is stochastic).

    Returns all iterates, (iterations + 1, N), of which the first is `start`.

    Raises OverflowError if the iteration diverges beyond what float64 can square.
    """
    iterates = np.empty((iterations + 1, len(start)))
    iterates[0] = start
    for t in range(iterations):
        moved = iterates[t] - step_size * oracle(iterates[t])
        if not np.max(np.abs(moved)) <= _LARGEST:
            raise OverflowError(
                f"iteration {t + 1} diverged: step_size = {step_size:g} is too large for this "
                "oracle; expected a smaller step, less noise or fewer iterations"
            )
        iterates[t + 1] = hard_threshold(moved, k)
    return iterates
