"""DSD's three phases: dense, sparse by layer with zeros that stay, and dense from these zeros."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from acdc.sparsity.selection import magnitude_masks
from acdc.step import Step
from baselines.dsd import Settings
from tests.support import Drive, nonzeros, tiny_config

SIZES = {"conv.weight": 18, "hidden.weight": 48, "out.weight": 24}


def dsd(sparsity: float = 0.3, epochs: int = 4, **settings: Any) -> Drive:
    return Drive(tiny_config("dsd", sparsity=sparsity, epochs=epochs, settings=settings))


def test_phases_products_and_counts_by_epoch() -> None:
    drive = dsd()
    seen: list[tuple[str, str | None, int]] = []

    def look(step: Step) -> None:
        if step.batch == 4:
            method = drive.method
            seen.append((method.phase(step), method.product(step), nonzeros(drive.weights)))

    drive.run(look)
    kept = sum(size - math.floor(0.3 * size) for size in SIZES.values())
    assert seen == [
        ("dense", None, 90),
        ("dense", None, 90),
        ("sparse", "sparse", kept),
        ("dense", "dense", 90),
    ]
    assert drive.method.products == ("dense", "sparse")
    assert [event["event"] for event in drive.method.events.drain()] == ["prune", "restore"]


def test_sparse_phase() -> None:
    drive = dsd(0.6)
    expected: dict[str, Tensor] = {}
    steps = 0

    def begin(step: Step) -> None:
        if step.epoch == 2:
            assert all(torch.equal(drive.method.masks[name], expected[name]) for name in expected)

    def look(step: Step) -> None:
        nonlocal steps
        if step.epoch == 1 and step.batch == 4:
            expected.update(magnitude_masks(drive.weights, 0.6, "uniform"))
        if step.epoch == 2:
            steps += 1
            assert drive.method.gradient_masks() is drive.method.masks
            for name, mask in expected.items():
                assert torch.equal(drive.weights[name] != 0, mask)
                gradient = drive.weights[name].grad
                assert bool((gradient[~mask] == 0).all())

    drive.run(look, at_epoch=begin)
    assert steps == 5


def test_restored_weights_start_at_zero() -> None:
    drive = dsd(0.6)
    masks: dict[str, Tensor] = {}
    momentum: dict[str, Tensor] = {}
    forgotten = 0

    def look(step: Step) -> None:
        if step.epoch == 2:
            masks.update(drive.method.masks)
            momentum.update(drive.momentum())
        if step.epoch == 3:
            assert drive.method.masks == {}
            # The gradient is not masked: dense training.
            for name, weight in drive.weights.items():
                assert bool((weight.grad[~masks[name]] != 0).any())
            assert nonzeros(drive.weights) == 90

    def begin(step: Step) -> None:
        nonlocal forgotten
        if step.epoch == 3:
            for name, buffer in drive.momentum().items():
                pruned = ~masks[name]
                forgotten += int((momentum[name][pruned] != 0).sum())
                assert bool((buffer[pruned] == 0).all())
                assert torch.equal(buffer[masks[name]], momentum[name][masks[name]])
                assert bool((drive.weights[name][pruned] == 0).all())

    drive.run(look, at_epoch=begin)
    assert forgotten > 0


@pytest.mark.parametrize("factor", [0.1, 1.0])
def test_the_last_phase_has_a_lower_learning_rate(factor: float) -> None:
    drive = dsd(final_lr_factor=factor)
    rates = [drive.method.learning_rate(Step(epoch, 0, 5), 0.5) for epoch in range(4)]
    assert rates == [0.5, 0.5, 0.5, 0.5 * factor]


def test_phases_follow_the_settings() -> None:
    assert Settings().sparse_epochs(200) == (100, 150)
    drive = dsd(epochs=6, sparse_begin=0.34, sparse_end=0.8)
    phases = []

    def look(step: Step) -> None:
        if step.batch == 0:
            phases.append(drive.method.phase(step))

    drive.run(look)
    assert phases == ["dense", "dense", "sparse", "sparse", "sparse", "dense"]
