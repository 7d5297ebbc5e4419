"""DSD's three phases: dense, sparse by layer with zeros that stay, and dense from these zeros."""

from typing import Any

import pytest
import torch
from torch import Tensor

from acdc.sparsity.selection import magnitude_masks
from acdc.step import Step
from baselines.dsd import Settings
from tests.support import Drive, nonzeros, tiny_config


def dsd(sparsity: float = 0.3, epochs: int = 4, **settings: Any) -> Drive:
    return Drive(tiny_config("dsd", sparsity=sparsity, epochs=epochs, settings=settings))


def test_sparse_phase() -> None:
    drive = dsd(0.6)
    expected: dict[str, Tensor] = {}
    for before in drive.walk():
        if before.step.epoch == 1:
            expected = magnitude_masks(drive.effective(), 0.6, "uniform")
        if before.step.epoch == 2:
            assert drive.method.gradient_masks() is drive.method.masks
            for name, mask in expected.items():
                assert torch.equal(before.masks[name], mask)
                assert torch.equal(drive.weights[name] != 0, mask)
                assert bool((drive.weights[name].grad[~mask] == 0).all())
    assert expected


def test_restored_weights_start_at_zero() -> None:
    drive = dsd(0.6)
    masks: dict[str, Tensor] = {}
    momentum: dict[str, Tensor] = {}
    forgotten = 0
    for before in drive.walk():
        if before.step.epoch == 2:
            masks, momentum = dict(drive.method.masks), drive.momentum()
        if before.step.epoch == 3:
            assert drive.method.masks == {}
            assert nonzeros(drive.weights) == 90
            for name, mask in masks.items():
                # The gradient is not masked: dense training.
                assert bool((drive.weights[name].grad[~mask] != 0).any())
                if before.step.batch == 0:
                    forgotten += int((momentum[name][~mask] != 0).sum())
                    assert torch.equal(before.momentum[name], momentum[name] * mask)
                    assert bool((before.weights[name][~mask] == 0).all())
    assert forgotten > 0
    assert [event["event"] for event in drive.method.events.drain()] == ["prune", "restore"]


@pytest.mark.parametrize("factor", [0.1, 1.0])
def test_the_last_phase_has_a_lower_learning_rate(factor: float) -> None:
    drive = dsd(final_lr_factor=factor)
    rates = [drive.method.learning_rate(Step(epoch, 0, 5), 0.5) for epoch in range(4)]
    assert rates == [0.5, 0.5, 0.5, 0.5 * factor]
    assert Settings().sparse_epochs(200) == (100, 150)
