"""GMP follows its ramp to the exact target, with stored weights that survive and may return."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

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
    seen: dict[int, dict[str, int]] = {}

    def look(step: Step) -> None:
        seen[step.iteration + 1] = {n: int((w == 0).sum()) for n, w in drive.weights.items()}

    drive.run(look)
    # 20 steps: the ramp is from 4 to 16, its seven updates two steps apart.
    sparsity = 0.0
    for steps_taken in range(1, 21):
        if steps_taken in range(4, 17, 2):
            sparsity = 0.75 - 0.75 * (1 - (steps_taken - 4) / 12) ** 3
        expected = {name: math.floor(sparsity * size) for name, size in SIZES.items()}
        assert seen[steps_taken] == expected, steps_taken
    assert seen[20] == {name: math.floor(0.75 * size) for name, size in SIZES.items()}


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
    last_masks: dict[str, Tensor] = {}
    last_stored: dict[str, Tensor] = {}

    def prepare(step: Step) -> None:
        last_stored.update({name: weight.clone() for name, weight in stored_weights(drive).items()})

    def look(step: Step) -> None:
        nonlocal returned
        masks = drive.method.masks
        now = stored_weights(drive)
        assert nonzeros(now) == 90
        for name, mask in masks.items():
            if name in last_masks:
                back = mask & ~last_masks[name]
                returned += int(back.sum())
                assert torch.equal(drive.weights[name].detach()[back], now[name][back])
        last_masks.update(masks)

    drive.run(look, before_step=prepare)
    assert returned > 0


def test_the_ranking_sees_the_stored_weights() -> None:
    drive = gmp(0.5, updates=12)
    compared = 0

    def look(step: Step) -> None:
        nonlocal compared
        taken = step.iteration + 1
        if 4 <= taken <= 16:
            sparsity = cubic_ramp(taken, 4, 16, 0.0, 0.5)
            expected = magnitude_masks(stored_weights(drive), sparsity, "uniform")
            for name, mask in drive.method.masks.items():
                assert torch.equal(mask, expected[name])
                compared += 1

    drive.run(look)
    assert compared == 13 * 3


def test_pruned_weights_decay_without_gradient() -> None:
    drive = gmp(0.5)
    recipe = drive.config.recipe
    checked = 0
    before: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}

    def prepare(step: Step) -> None:
        masks.clear()
        masks.update(drive.method.masks)
        before.update({name: weight.clone() for name, weight in stored_weights(drive).items()})
        if step.iteration:
            buffers.update(drive.momentum())

    def look(step: Step) -> None:
        nonlocal checked
        for name, mask in masks.items():
            velocity = recipe.momentum * buffers[name] + recipe.weight_decay * before[name]
            expected = before[name] - recipe.lr * velocity
            torch.testing.assert_close(stored_weights(drive)[name][~mask], expected[~mask])
            checked += int((~mask).sum())

    drive.run(look, before_step=prepare)
    assert checked > 0


def test_forward_uses_masked_weights() -> None:
    drive = gmp()

    def look(step: Step) -> None:
        for name, mask in drive.method.masks.items():
            assert bool((drive.weights[name][~mask] == 0).all())
            assert torch.equal(drive.weights[name].detach(), stored_weights(drive)[name] * mask)

    drive.run(look)


@pytest.mark.parametrize("settings", [{"begin": 0.99, "end": 0.999}, {"begin": 0.0, "end": 0.01}])
def test_short_ramps_reach_the_target(settings: dict[str, float]) -> None:
    drive = gmp(**settings).run()
    assert nonzeros(drive.weights) == sum(n - math.floor(0.75 * n) for n in SIZES.values())
    assert drive.method.product(Step(3, 4, 5)) == "sparse"
