"""Noise has the variance that the theorems assume, and random streams of its own."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from theory.noise import gaussian, stream


def zero(theta: Tensor) -> Tensor:
    return torch.zeros_like(theta)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("kept", [1, 3, 12])
def test_the_mean_squared_norm_is_sigma2_whatever_the_support(sigma: float, kept: int) -> None:
    draws = 20_000
    support = torch.arange(12) % 12 < kept
    noise = gaussian(zero, sigma, stream(0, "norm"), support)(zeros(draws, 12)).numpy()
    assert (noise[:, ~support.numpy()] == 0).all()
    # The sum of `kept` squared normals: chi-squared, of variance 2 / kept relative to its mean.
    mean = np.mean(np.sum(noise**2, axis=1))
    assert mean == pytest.approx(sigma**2, rel=5 * math.sqrt(2 / kept / draws))
    entries = noise[:, support.numpy()] * math.sqrt(kept) / sigma
    assert scipy.stats.kstest(entries.reshape(-1), "norm").pvalue > 1e-4
    correlations = np.corrcoef(entries.T).reshape(kept, kept) - np.eye(kept)
    assert np.abs(correlations).max() < 6 / math.sqrt(draws)


def test_noise_is_added_to_the_gradient_and_is_in_all_coordinates_by_default() -> None:
    theta = torch.randn((4, 5, 7), dtype=torch.float64, generator=stream(0, "theta"))
    noisy = gaussian(lambda x: 3.0 * x, 0.5, stream(0, "noise"))(theta)
    alone = gaussian(zero, 0.5, stream(0, "noise"))(theta)
    assert torch.equal(noisy, 3.0 * theta + alone)
    assert bool((alone != 0).all())


def test_sigma_and_support_differ_between_trials() -> None:
    sigma = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
    support = torch.tensor([[True, False, True], [True, True, True], [False, False, True]])
    noise = gaussian(zero, sigma.unsqueeze(-1), stream(0), support.unsqueeze(1))(zeros(3, 9000, 3))
    variances = noise.square().mean(1).numpy()
    expected = np.array([[0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 16]])
    np.testing.assert_allclose(variances, expected, rtol=5 * math.sqrt(2 / 9000))


def test_noise_is_drawn_afresh_at_each_call_and_for_each_trial() -> None:
    oracle = gaussian(zero, 1.0, stream(0, "noise"))
    once, again = oracle(zeros(50, 3)), oracle(zeros(50, 3))
    assert len(torch.cat([once, again]).unique()) == 300
    assert torch.equal(gaussian(zero, 1.0, stream(0, "noise"))(zeros(50, 3)), once)


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf, torch.tensor([1.0, -0.1])])
def test_a_sigma_that_is_no_level_is_refused(sigma: Any) -> None:
    with pytest.raises(ValueError, match="expected a finite number >= 0"):
        gaussian(zero, sigma, stream(0))


def drawn(seed: int, *names: str) -> Tensor:
    return torch.randn(2000, dtype=torch.float64, generator=stream(seed, *names))


def test_streams_are_the_same_for_the_same_names_and_unrelated_for_others() -> None:
    keys: list[tuple[Any, ...]] = [
        (seed, *names)
        for seed in (0, 1, 2)
        for names in ((), ("",), ("", ""), ("a",), ("a", "b"), ("b", "a"), ("ab",), ("noise",))
    ]
    samples = [drawn(*key) for key in keys]
    for key, sample in zip(keys, samples, strict=True):
        assert torch.equal(drawn(*key), sample)
    # For 276 pairs a correlation of six standard deviations is out of the question.
    for one, other in itertools.combinations(samples, 2):
        assert abs(float(np.corrcoef(one, other)[0, 1])) < 6 / math.sqrt(2000)


def test_noise_on_no_coordinate_is_refused() -> None:
    support = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match="at least one coordinate"):
        gaussian(lambda theta: theta, 1.0, stream(0), support)
