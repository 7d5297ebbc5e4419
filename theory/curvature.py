"""Second derivatives of a loss along sparse directions, by products of its Hessian with vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Products before the first restart; outlying eigenvalues need few.
_LANCZOS_VECTORS = 6


class Hessian:
    """The Hessian of a loss with respect to parameters, at the point where the loss was computed.

    One forward pass and its graph serve all products, so that what the forward pass draws at random
    is the same in each. Vectors are float64 of shape (N,), the parameters one after the other in
    row-major order; products have the precision of the loss.
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._slopes = torch.autograd.grad(loss, self._parameters, create_graph=True)
        self.gradient = flat(self._slopes)
        """Of the loss, (N,)."""

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector."""
        sizes = [parameter.numel() for parameter in self._parameters]
        split = zip(vector.split_with_sizes(sizes), self._parameters, strict=True)
        parts = [part.view_as(parameter).to(parameter) for part, parameter in split]
        return flat(torch.autograd.grad(self._slopes, self._parameters, parts, retain_graph=True))

    def along(self, direction: Tensor) -> float:
        """Return the curvature d^T H d / ||d||^2 along a direction d, (N,); NaN if d is 0."""
        return float(direction @ (self @ direction) / direction.square().sum())


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors as one float64 vector without history, in row-major order."""
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


def largest_curvature(
    hessian: Hessian, support: Tensor, generator: torch.Generator, tolerance: float = 0.01
) -> tuple[float, Tensor]:
    """Return the largest eigenvalue of P_S H P_S and its eigenvector (N,), by Lanczos' iteration.

    It is the largest curvature along directions within S, a mask (N,), from below: a Ritz value.
    Where H is 0 on S it is 0, and the vector a random one. The tolerance is that of the residual,
    relative to the eigenvalue: some eigenvalue is as near as that.

    Raises:
        ValueError: S has fewer than two coordinates.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    if (size := int(support.sum())) < 2:
        raise ValueError(f"the support has {size} coordinates: expected at least 2")

    def embed(vector: np.ndarray) -> Tensor:
        whole = torch.zeros(support.shape, dtype=torch.float64)
        whole[support] = torch.from_numpy(vector.reshape(-1)).double()
        return whole

    def product(vector: np.ndarray) -> np.ndarray:
        return np.asarray((hessian @ embed(vector))[support])

    start = torch.randn(size, dtype=torch.float64, generator=generator).numpy()
    try:
        values, vectors = eigsh(
            LinearOperator((size, size), matvec=product, dtype=np.float64),
            k=1,
            which="LA",
            v0=start,
            ncv=min(size, _LANCZOS_VECTORS),
            tol=tolerance,
        )
    except ArpackError:
        # That nothing is left of the first vector is an error to ARPACK.
        if product(start).any():
            raise
        return 0.0, embed(start / np.linalg.norm(start))
    return float(values[0]), embed(vectors[:, 0])


def random_direction(n: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw a unit vector (N,) uniform among those on k random coordinates.

    The mean of d^T H d over these is the mean eigenvalue of H.
    """
    direction = torch.zeros(n, dtype=torch.float64)
    chosen = torch.randperm(n, generator=generator)[:k]
    direction[chosen] = torch.randn(k, dtype=torch.float64, generator=generator)
    return direction / direction.square().sum().sqrt()
