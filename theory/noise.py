"""Noise of a known variance, sigma^2 = E||g(theta) - grad f(theta)||^2 (assumption A1)."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from theory.problems.base import Gradient


def stream(seed: int, *names: str) -> torch.Generator:
    """Return a generator of random numbers of its own for a seed and names."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def gaussian(
    gradient: Gradient,
    sigma: float | Tensor,
    generator: torch.Generator,
    support: Tensor | None = None,
) -> Gradient:
    """Return a gradient with Gaussian noise, equal in all coordinates of a support.

    Its variance E||noise||^2 is sigma^2 at every theta, so that A1 holds with equality. Sigma is by
    trial, the support a mask that broadcasts to (..., N), by default all.

    Raises:
        ValueError: sigma is negative or not finite, or a support is empty.
    """
    level = torch.as_tensor(sigma, dtype=torch.float64)
    if not bool(((level >= 0) & level.isfinite()).all()):
        raise ValueError(f"sigma = {sigma}: expected a finite number >= 0")
    if support is not None and not bool(support.any(-1).all()):
        raise ValueError("support: expected at least one coordinate with noise")

    def noisy(theta: Tensor) -> Tensor:
        noise = torch.randn(theta.shape, dtype=theta.dtype, generator=generator)
        on = torch.ones_like(noise, dtype=torch.bool) if support is None else support
        each = level.unsqueeze(-1) / on.sum(-1, keepdim=True).sqrt()
        return gradient(theta) + torch.where(on, each * noise, 0.0)

    return noisy
