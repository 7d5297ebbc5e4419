"""RigL's updates replace optimizer steps, grow by the dense gradient, and cost what it printed.

What it shares with other methods that move connections is tested in test_rewiring.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acdc.methods.phases import cosine_drop_fraction
from acdc.sparsity.distributions import erk_sparsities, layer_sparsities
from acdc.sparsity.flops import layer_costs, step_flops
from acdc.sparsity.layers import prunable_layers
from acdc.vision import torchvision_models
from baselines.rigl import training_flops
from tests.support import Drive, costs_of, nonzeros, tiny_config


def rigl(**settings: Any) -> Drive:
    return Drive(tiny_config("rigl", settings={"update_interval": 3 / 20, "end": 0.7} | settings))


def updates_of(drive: Drive) -> list[int]:
    return [batch for batch, stepped in enumerate(drive.run().stepped) if not stepped]


def test_update_times() -> None:
    drive = rigl()
    # 20 batches; an update's own batch is not a step, so that updates are four batches apart.
    # They may come up to optimizer step 0.7 * 20 = 14.
    updates = updates_of(drive)
    assert updates == [0, 4, 8, 12, 16]
    events = drive.method.events.drain()
    assert [event["iteration"] for event in events] == updates
    expected = [cosine_drop_fraction(step, 0.3, 14) for step in (0, 3, 6, 9, 12)]
    assert [event["drop_fraction"] for event in events] == expected
    assert expected == pytest.approx([0.3, 0.267275, 0.183378, 0.084917, 0.014855], abs=1e-6)


@pytest.mark.parametrize(
    ("begin", "end", "updates"),
    [
        (0.0, 0.6, [0, 4, 8, 12, 16]),  # the fifth falls on optimizer step 12 = 0.6 * 20, the end
        (0.0, 0.55, [0, 4, 8, 12]),
        (0.25, 0.6, [5, 9, 13]),  # steps 5, 8 and 11
        (0.0, 0.01, [0]),  # both round to step 0
    ],
)
def test_updates_between_begin_and_end(begin: float, end: float, updates: list[int]) -> None:
    assert updates_of(rigl(begin=begin, end=end)) == updates


def test_drop_fraction_with_a_later_begin() -> None:
    drive = rigl(begin=0.5, end=0.75, update_interval=2 / 20)
    assert updates_of(drive) == [10, 13, 16]  # steps 10, 12 and 14
    # It decays over end - begin = 5 steps, counted from the start of training, as in the original.
    events = drive.method.events.drain()
    assert [(event["drop_fraction"], event["grown"]) for event in events] == [(0, 0)] * 3


@pytest.mark.parametrize("drop_noise", [0.0, 1e-5])
def test_growth_by_dense_gradient(drop_noise: float) -> None:
    drive = rigl(drop_fraction=0.5, drop_noise=drop_noise)
    moved = 0
    for before in drive.walk():
        if drive.stepped[-1]:
            assert all(torch.equal(mask, before.masks[n]) for n, mask in drive.method.masks.items())
            continue
        fraction = cosine_drop_fraction(drive.stepped.count(True), 0.5, 14)
        for name, mask in drive.method.masks.items():
            old, weight, gradient = (
                each[name].reshape(-1) for each in (before.masks, before.weights, before.gradients)
            )
            dropped = int(np.float32(int(old.sum())) * np.float32(fraction))
            # No weight is as close to the next as the noise could reach.
            active = sorted(weight[old].abs().tolist())
            assert dropped == 0 or active[dropped] - active[dropped - 1] > 8 * drop_noise
            kept = old & (weight.abs() >= active[dropped])
            order = sorted(
                (~kept).nonzero().reshape(-1).tolist(), key=lambda i: -abs(float(gradient[i]))
            )
            expected = {*kept.nonzero().reshape(-1).tolist(), *order[:dropped]}
            assert set(mask.reshape(-1).nonzero().reshape(-1).tolist()) == expected
            moved += len(expected - set(old.nonzero().reshape(-1).tolist()))
    assert moved > 0


def test_noise_decides_between_weights_that_it_drowns() -> None:
    def mask(drop_noise: float) -> Tensor:
        drive = rigl(drop_noise=drop_noise, end=0.1)
        return drive.run().method.masks["hidden.weight"]

    assert torch.equal(mask(0.0), mask(1e-9))
    assert not torch.equal(mask(0.0), mask(100.0))


@pytest.mark.parametrize("interval", [1, 3, 20])
def test_training_flops_are_those_of_its_appendix(interval: int) -> None:
    drive = rigl(update_interval=interval / 20, distribution="erk")
    costs = costs_of(drive)
    dense = sum(cost.flops for cost in costs)
    sparse = sum(2 * nonzeros({"": mask}) for mask in drive.method.masks.values())
    # Evci et al. 2020, Appendix H; every other step is as sparse as the forward pass.
    expected = (3 * sparse * interval + 2 * sparse + dense) / (interval + 1)
    assert drive.method.published_flops(costs) == pytest.approx(expected)
    densities = drive.method.densities()
    assert step_flops(costs, densities.forward, densities.gradient) == pytest.approx(3 * sparse)


def test_resnet50_costs_what_the_original_counts() -> None:
    """The original's table feeds the first convolution 230 x 230 pixels, which gives it 115 x 115
    outputs instead of 112 x 112, and counts one operation more for every output of every layer,
    which no sparsity saves. It takes densities as they come, before they are rounded to weights.
    """
    with torch.device("meta"):
        model = torchvision_models().resnet50()
    layers = prunable_layers(model)
    costs = layer_costs(model, (3, 224, 224))
    positions = {cost.name: cost.flops // (2 * cost.weights) for cost in costs}
    assert positions["conv1.weight"] == 112**2
    positions["conv1.weight"] = 115**2
    outputs = sum(positions[name] * layer.shape[0] for name, layer in layers.items())
    dense = sum(2 * positions[name] * layer.size for name, layer in layers.items()) + outputs
    assert dense == 8_202_340_776
    for sparsity, inference in ((0.8, 0.4153), (0.9, 0.2431)):
        sparsities = layer_sparsities(layers, "erk", sparsity)
        sparse = outputs + sum(
            2 * positions[name] * layer.size * (1 - sparsities[name])
            for name, layer in layers.items()
        )
        assert sparse / dense == pytest.approx(inference, abs=5e-5)
    # At the last of them, sparsity 0.9.
    assert training_flops(sparse, dense, 100) / (3 * dense) == pytest.approx(0.2456, abs=5e-5)


def test_numbers_of_the_declared_deviations() -> None:
    fraction = cosine_drop_fraction(5, 0.5, 15)
    assert np.float32(fraction) - np.spacing(np.float32(fraction)) == np.float32(0.37499997)
    assert [int(np.float32(16) * np.float32(f)) for f in (0.37499997, fraction)] == [5, 6]
    densities = [
        1 - erk_sparsities({"hidden": (1024, 1024, 1, 1), "last": last}, 0.9)["last"]
        for last in ((1000, 1024), (1000, 1024, 1, 1))
    ]
    assert densities[0] / densities[1] == pytest.approx(1, abs=1e-3)
