"""DPF trains the dense weights by the gradient at the pruned ones, whose mask follows them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from acdc.sparsity.selection import Scope, magnitude_masks
from acdc.step import Step
from baselines._ramps import cubic_ramp
from tests.support import Drive, nonzeros, stored_weights, tiny_config

SIZES = {"conv.weight": 18, "hidden.weight": 48, "out.weight": 24}


def dpf(sparsity: float = 0.75, lr: float = 0.2, **settings: Any) -> Drive:
    settings = {"update_interval": 4 / 20} | settings
    return Drive(tiny_config("dpf", sparsity=sparsity, settings=settings, recipe={"lr": lr}))


@pytest.mark.parametrize("distribution", ["global", "uniform"])
def test_masks_follow_the_stored_weights(distribution: Scope) -> None:
    drive = dpf(lr=0.5, distribution=distribution)
    updates: list[int] = []
    changed_after_the_ramp = 0
    for before in drive.walk():
        taken, masks = before.step.iteration + 1, drive.method.masks
        # 20 steps, the ramp to step 10, where there is an update beside the multiples of 4.
        if taken % 4 == 0 or taken == 10:
            updates.append(taken)
            sparsity = cubic_ramp(taken, 0, 10, 0.0, 0.75)
            expected = magnitude_masks(stored_weights(drive), sparsity, distribution)
            assert all(torch.equal(masks[name], expected[name]) for name in SIZES)
            if taken > 10:
                changed_after_the_ramp += sum(
                    int((masks[name] != before.masks[name]).sum()) for name in SIZES
                )
        else:
            assert all(torch.equal(masks[name], mask) for name, mask in before.masks.items())
    assert updates == [4, 8, 10, 12, 16, 20]
    assert changed_after_the_ramp > 0
    events = drive.method.events.drain()
    assert [event["iteration"] for event in events] == [0, 4, 8, 10]
    assert events[-1]["sparsity"] == 0.75


@pytest.mark.parametrize("distribution", ["global", "uniform"])
def test_target_is_exact(distribution: str) -> None:
    drive = dpf(0.9, distribution=distribution)
    for _ in drive.walk():
        for name, mask in drive.method.masks.items():
            assert torch.equal(drive.weights[name] != 0, mask)
        assert nonzeros(stored_weights(drive)) == 90
    zeros = 81 if distribution == "global" else sum(math.floor(0.9 * n) for n in SIZES.values())
    assert nonzeros(drive.weights) == 90 - zeros


def test_gradient_feedback() -> None:
    drive = dpf()
    recipe = drive.config.recipe
    before: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    moved = 0

    def prepare(step: Step) -> None:
        before.update({name: weight.clone() for name, weight in stored_weights(drive).items()})
        inputs, labels = drive.batch(step.iteration)
        effective = {n: (w * drive.method.masks[n]).requires_grad_() for n, w in before.items()}
        others = {n: p.detach() for n, p in drive.model.named_parameters() if n not in effective}
        buffers_before = {n: b.clone() for n, b in drive.model.named_buffers()}
        outputs = torch.func.functional_call(drive.model, effective | others, (inputs,))
        loss = torch.nn.functional.cross_entropy(outputs, labels)
        found = torch.autograd.grad(loss, list(effective.values()))
        for name, buffer in drive.model.named_buffers():
            buffer.copy_(buffers_before[name])
        for name, gradient in zip(effective, found, strict=True):
            fresh = gradient + recipe.weight_decay * before[name]
            old = buffers.get(name)
            buffers[name] = fresh if old is None else recipe.momentum * old + fresh

    def look(step: Step) -> None:
        nonlocal moved
        for name, weight in stored_weights(drive).items():
            torch.testing.assert_close(weight, before[name] - recipe.lr * buffers[name])
            out = ~drive.method.masks[name]
            moved += int((weight[out] != before[name][out]).sum())

    drive.run(look, before_step=prepare)
    assert moved > 0
    assert drive.method.gradient_masks() == {}
    assert all(density == 1 for density in drive.method.densities().gradient.values())
