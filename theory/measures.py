"""Measures of traces: iterations to a level, rates of contraction, noise floors."""

from __future__ import annotations

import torch
from torch import Tensor

# A square below this fraction of the first one is rounding error, which no theorem bounds.
ROUNDING = 1e-20


def first_at_most(values: Tensor, level: Tensor | float) -> Tensor:
    """Return the first iteration at which a quantity is at most a level, NaN if there is none.

    Values (iterations + 1, ...) and a level that broadcasts to (...) give (...).
    """
    reached = values <= level
    first = reached.to(torch.uint8).argmax(0).to(torch.float64)
    return torch.where(reached.any(0), first, torch.nan)


def worst_ratio(values: Tensor, floor: Tensor | float = ROUNDING) -> Tensor:
    """Return the largest ratio of successive values, (iterations + 1, ...) to (...).

    Steps that start below the floor, a fraction of the first value, are skipped; NaN where none is
    left.
    """
    before, after = values[:-1], values[1:]
    counted = (before > floor * values[0]) & after.isfinite() & before.isfinite()
    ratios = torch.where(counted, after / before, -torch.inf).amax(0)
    return torch.where(counted.any(0), ratios, torch.nan)


def geometric(values: Tensor) -> float:
    """Return the geometric mean of positive numbers, 0 if one of them is 0."""
    return float(values.log().mean().exp())


def tail_mean(values: Tensor, part: float = 0.5) -> Tensor:
    """Return the mean over the last fraction of the iterations: (iterations + 1, ...) to (...)."""
    first = len(values) - max(1, int(part * len(values)))
    return values[first:].mean(0)
