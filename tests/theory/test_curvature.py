"""Products with the Hessian, against matrices that are known."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from theory.curvature import Hessian, flat, largest_curvature, random_direction
from theory.noise import stream


def quadratic(n: int, seed: int = 0) -> tuple[Tensor, Hessian]:
    """Return a symmetric matrix and the Hessian of theta^T A theta / 2, in two parameters."""
    drawn = torch.randn((n, n), dtype=torch.float64, generator=stream(seed, "matrix"))
    matrix = drawn + drawn.T
    parts = [torch.ones(3, requires_grad=True), torch.ones((n - 3, 1), requires_grad=True)]
    theta = torch.cat([part.double().reshape(-1) for part in parts])
    return matrix, Hessian(theta @ matrix @ theta / 2, parts)


def test_products_and_gradient_of_a_quadratic() -> None:
    matrix, hessian = quadratic(8)
    assert hessian.gradient.tolist() == pytest.approx(matrix.sum(1).tolist(), rel=1e-5)
    for column in range(8):
        unit = torch.eye(8, dtype=torch.float64)[column]
        assert (hessian @ unit).tolist() == pytest.approx(matrix[column].tolist(), rel=1e-5)
        assert hessian.along(3.0 * unit) == pytest.approx(float(matrix[column, column]), rel=1e-5)


@pytest.mark.parametrize("size", [2, 5, 40])
def test_the_largest_curvature_is_the_largest_eigenvalue_of_the_minor(size: int) -> None:
    matrix, hessian = quadratic(40)
    support = torch.zeros(40, dtype=torch.bool)
    support[torch.randperm(40, generator=stream(size))[:size]] = True
    minor = matrix[support][:, support].numpy()
    found, vector = largest_curvature(hessian, support, stream(1), tolerance=1e-6)
    # Signed: the eigenvalue of largest magnitude may be negative.
    assert found == pytest.approx(np.linalg.eigvalsh(minor)[-1], rel=1e-4)
    assert float(vector.norm()) == pytest.approx(1.0)
    assert not vector[~support].any()
    assert hessian.along(vector) == pytest.approx(found, rel=1e-4)


def test_where_the_hessian_is_zero_so_is_the_largest_curvature() -> None:
    parts = [torch.ones(6, requires_grad=True)]
    flat_there = Hessian(parts[0][0] ** 4 + parts[0].sum(), parts)
    support = torch.arange(6) >= 2
    found, vector = largest_curvature(flat_there, support, stream(0))
    assert found == 0.0
    assert float(vector.norm()) == pytest.approx(1.0)
    assert not vector[:2].any()
    everywhere = torch.ones(6, dtype=torch.bool)
    assert largest_curvature(flat_there, everywhere, stream(0))[0] == pytest.approx(12.0)
    assert np.isnan(flat_there.along(torch.zeros(6, dtype=torch.float64)))


def test_a_support_of_one_coordinate_is_refused() -> None:
    with pytest.raises(ValueError, match="1 coordinates"):
        largest_curvature(quadratic(5)[1], torch.arange(5) == 2, stream(0))


def test_products_of_a_network_are_differences_of_its_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)
    ).double()
    inputs = torch.randn((16, 1, 4, 4), dtype=torch.float64)
    labels = torch.arange(16) % 4
    weights = list(model.parameters())

    def at() -> Hessian:
        return Hessian(nn.functional.cross_entropy(model(inputs), labels), weights)

    here, step = at(), 1e-5
    direction = random_direction(len(here.gradient), 9, stream(0))
    parts = [
        part.view_as(weight)
        for part, weight in zip(direction.split([w.numel() for w in weights]), weights, strict=True)
    ]
    product = here @ direction
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, part in zip(weights, parts, strict=True):
                weight += sign * step * part
        ends.append(at().gradient)
    difference = (ends[0] - ends[1]) / (2 * step)
    assert (product - difference).abs().max() < 1e-6
    assert difference.abs().max() > 1e-2


def test_random_directions_are_sparse_units_whose_curvature_is_the_mean_eigenvalue() -> None:
    generator = stream(0)
    drawn = torch.stack([random_direction(6, 2, generator) for _ in range(4_000)])
    assert drawn.norm(dim=-1).tolist() == pytest.approx([1.0] * len(drawn))
    assert (drawn.count_nonzero(-1) == 2).all()
    # E d d^T = I / N, with entries of variance below 1/2: four standard errors.
    second = drawn.T @ drawn / len(drawn)
    assert (second - torch.eye(6, dtype=torch.float64) / 6).abs().max() < 4 * (0.5 / 4_000) ** 0.5


def test_flat_is_row_major_whatever_the_memory_format() -> None:
    tensor = torch.arange(24.0).view(1, 2, 3, 4)
    assert flat([tensor.to(memory_format=torch.channels_last)]).tolist() == list(range(24))
