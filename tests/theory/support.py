"""What the theory's tests share: seeded draws, and experiments by name."""

from __future__ import annotations

import math
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
