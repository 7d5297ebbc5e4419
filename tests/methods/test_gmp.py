"""GMP follows its ramp to the exact target, with stored weights that survive and may return."""

import math
from typing import Any

import pytest
import torch

from acdc.sparsity.selection import magnitude_masks
from acdc.step import Step
from baselines._ramps import cubic_ramp
from tests.support import Drive, nonzeros, stored_weights, tiny_config

SIZES = {"conv.weight": 18, "hidden.weight": 48, "out.weight": 24}


def gmp(sparsity: float = 0.75, lr: float = 0.2, **settings: Any) -> Drive:
    settings = {"begin": 0.2, "end": 0.8, "updates": 6} | settings
    return Drive(tiny_config("gmp", sparsity=sparsity, settings=settings, recipe={"lr": lr}))


def test_sparsity_by_step_is_the_cubic() -> None:
    drive = gmp()
    # 20 steps: the ramp is from 4 to 16, its seven updates two steps apart.
    sparsity = 0.0
    for taken, _ in enumerate(drive.walk(), start=1):
        if taken in range(4, 17, 2):
            sparsity = 0.75 - 0.75 * (1 - (taken - 4) / 12) ** 3
        zeros = {name: int((weight == 0).sum()) for name, weight in drive.weights.items()}
        assert zeros == {name: math.floor(sparsity * size) for name, size in SIZES.items()}, taken
    assert (taken, sparsity) == (20, 0.75)


@pytest.mark.parametrize("distribution", ["uniform", "global"])
@pytest.mark.parametrize("sparsity", [0.31, 0.9, 0.97])
def test_target_is_exact(distribution: str, sparsity: float) -> None:
    drive = gmp(sparsity, distribution=distribution).run()
    if distribution == "global":
        assert nonzeros(drive.weights) == 90 - math.floor(sparsity * 90)
    else:
        for name, size in SIZES.items():
            kept = nonzeros({name: drive.weights[name]})
            assert kept == size - math.floor(sparsity * size)


def test_stored_weights_survive_pruning_and_may_return() -> None:
    # A large learning rate, so that ranks change on the ramp.
    drive = gmp(0.5, lr=0.5, updates=12, initial_sparsity=0.45)
    returned = 0
    for before in drive.walk():
        stored = stored_weights(drive)
        assert nonzeros(stored) == 90
        for name, mask in drive.method.masks.items():
            if name in before.masks:
                back = mask & ~before.masks[name]
                returned += int(back.sum())
                assert torch.equal(drive.weights[name].detach()[back], stored[name][back])
    assert returned > 0


def test_the_ranking_sees_the_stored_weights() -> None:
    drive = gmp(0.5, updates=12)
    compared = 0
    for taken, _ in enumerate(drive.walk(), start=1):
        if 4 <= taken <= 16:
            sparsity = cubic_ramp(taken, 4, 16, 0.0, 0.5)
            expected = magnitude_masks(stored_weights(drive), sparsity, "uniform")
            for name, mask in drive.method.masks.items():
                assert torch.equal(mask, expected[name])
                compared += 1
    assert compared == 13 * 3


@pytest.mark.parametrize("settings", [{"begin": 0.99, "end": 0.999}, {"begin": 0.0, "end": 0.01}])
def test_short_ramps_reach_the_target(settings: dict[str, float]) -> None:
    drive = gmp(**settings).run()
    assert nonzeros(drive.weights) == sum(n - math.floor(0.75 * n) for n in SIZES.values())
    assert drive.method.product(Step(3, 4, 5)) == "sparse"
