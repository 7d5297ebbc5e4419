"""What the theory's tests share: seeded draws, and experiments by name."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from torch import Tensor

from theory import experiment
from theory.outcome import Outcome
from theory.statements import Statement

Array = npt.NDArray[np.float64]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def outcome_of(name: str, **settings: Any) -> Outcome:
    """Run an experiment with settings that differ from its defaults."""
    return experiment.load(name).run(experiment.parse(name, settings))


def statement(outcome: Outcome, name: str) -> Statement:
    (found,) = (each for each in outcome.statements if each.id == name)
    return found


def trap_design(rho: float, w: float, k: int, copies: int = 1) -> Array:
    """Return A of the trap F3 by its columns."""
    unit = np.eye(k + 1)
    p = math.sqrt(w / k)
    columns = [rho * unit[0]] + [p * unit[0] + math.sqrt(1 - p**2) * unit[j + 1] for j in range(k)]
    return np.asarray(scipy.linalg.block_diag(*[np.stack(columns, axis=1)] * copies))


def head(x: Array, k: int) -> Array:
    """Return x with all but its k largest entries zero, by numpy's stable sort."""
    sparse = np.zeros_like(x)
    kept = np.argsort(-np.abs(x), kind="stable")[:k]
    sparse[kept] = x[kept]
    return sparse


def plain_iht(
    gradient: Callable[[Array], Array], start: Array, k: int, eta: float, steps: int
) -> list[Array]:
    """Return the iterates of one trial, paper Eq. 2, the first included."""
    iterates = [start]
    for _ in range(steps):
        iterates.append(head(iterates[-1] - eta * gradient(iterates[-1]), k))
    return iterates
