"""What the families of problems share: the type of gradients, and random sparse minimisers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Gradient = Callable[[Tensor], Tensor]
"""The gradient or an unbiased estimate of it, (..., N) to (..., N)."""


def sparse_vectors(count: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw vectors (count, n), each with k entries of random sign and magnitude in [1, 2].

    Raises:
        ValueError: not 1 <= k <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"{k} non-zeros: expected 1 to n = {n}")
    places = torch.rand((count, n), dtype=torch.float64, generator=generator).argsort(-1)[:, :k]
    sizes = 1.0 + torch.rand((count, k), dtype=torch.float64, generator=generator)
    signs = torch.randint(0, 2, (count, k), generator=generator) * 2.0 - 1.0
    return torch.zeros((count, n), dtype=torch.float64).scatter_(-1, places, signs * sizes)
