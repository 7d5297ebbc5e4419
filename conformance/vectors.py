"""How the figures of the originals are written down, and how two of them are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def hashval(shape: Sequence[int], salt: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the deterministic tensor of a shape and salt, in [-0.5, 0.5).

    For the flat index i = 1..n: ((i 2654435761 + 40503 salt) mod 2^32) / 2^32 - 0.5 in double
    precision, then rounded to ``dtype``: no generator, so that every framework can make it.
    """
    count = torch.Size(shape).numel()
    values = [((i * 2654435761 + salt * 40503) % 2**32) / 2**32 - 0.5 for i in range(1, count + 1)]
    return torch.tensor(values, dtype=torch.float64).to(dtype).reshape(tuple(shape))


@dataclass(frozen=True)
class Case:
    """One comparison: what was replayed, how far ours is from the original's, and what is allowed.

    A difference is the largest absolute one over all numbers of the case; infinite where they are
    not of the same length or one is not a number.
    """

    name: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


def compare(name: str, ours: Any, theirs: Any, tolerance: float = 0.0, note: str = "") -> Case:
    """Return a case of two numbers or nested sequences of numbers; booleans count as 0 and 1.

    A comparison of nothing with nothing does not agree.
    """
    mine, original = flat(ours), flat(theirs)
    if len(mine) != len(original) or not original:
        return Case(name, math.inf, tolerance, f"{len(mine)} numbers, not {len(original)}")
    worst = 0.0
    for a, b in zip(mine, original, strict=True):
        difference = 0.0 if a == b else abs(a - b)
        # A comparison with NaN is false, and would pass for agreement.
        worst = max(worst, difference) if difference == difference else math.inf
    return Case(name, worst, tolerance, note)


def flat(value: Any) -> list[float]:
    """Return all numbers of a tensor, a number or a nested sequence, in order; None is NaN."""
    if isinstance(value, Tensor):
        return [float(number) for number in value.detach().double().reshape(-1).tolist()]
    if isinstance(value, Iterable):
        return [number for item in value for number in flat(item)]
    return [math.nan if value is None else float(value)]
