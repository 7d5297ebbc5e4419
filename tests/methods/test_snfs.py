"""SNFS grows by the running mean of the dense gradient, after the optimizer's step.

What it shares with other methods that move connections is tested in test_rewiring.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from acdc.methods.phases import cosine_drop_fraction
from acdc.step import Step
from tests.support import Drive, costs_of, nonzeros, tiny_config


def snfs(**settings: Any) -> Drive:
    return Drive(tiny_config("snfs", settings={"update_interval": 3 / 20, "end": 0.7} | settings))


@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0])
def test_mean_gradient(momentum: float) -> None:
    drive = snfs(gradient_momentum=momentum)
    method = drive.method
    history: dict[str, list[Tensor]] = {name: [] for name in method.ranked}
    for before in drive.walk():
        for name, gradients in history.items():
            gradients.append(before.gradients[name].double())
            expected = sum(
                (1 - momentum) * momentum**age * gradient
                for age, gradient in enumerate(reversed(gradients))
            )
            torch.testing.assert_close(method.means[name].double(), expected, rtol=1e-4, atol=1e-7)
            outside = ~method.masks[name]
            assert bool((method.means[name][outside] != 0).any())
    assert len(history["hidden.weight"]) == 20


def test_growth_by_mean_gradient() -> None:
    drive = snfs(drop_fraction=0.5, drop_noise=0.0)
    method = drive.method
    grown_in_all = 0
    updates: list[int] = []
    update_of = method.update

    def update(step: Step) -> None:
        nonlocal grown_in_all
        # Called with the stored weights, when the optimizer has stepped.
        updates.append(method.steps_taken)
        fraction = cosine_drop_fraction(method.steps_taken, 0.5, 14)
        before = {name: (mask, drive.effective()[name]) for name, mask in method.masks.items()}
        update_of(step)
        for name, (old, weight) in before.items():
            dropped = int(int(old.sum()) * fraction)
            smallest = sorted(weight[old].abs().tolist())[dropped]
            kept = old & (weight.abs() >= smallest)
            candidates = method.means[name].abs().masked_fill(kept, -1)
            least = sorted(candidates.reshape(-1).tolist(), reverse=True)[max(dropped - 1, 0)]
            expected = kept | (candidates >= least) if dropped else kept
            assert torch.equal(method.masks[name], expected)
            grown_in_all += int((expected & ~old).sum())

    method.update = update  # type: ignore[method-assign]
    drive.run()
    assert drive.stepped == [True] * 20
    assert updates == [1, 4, 7, 10, 13]
    assert grown_in_all > 0


def test_its_gradients_are_dense_and_cost_as_much() -> None:
    drive = snfs(dense_layers=()).run()
    assert drive.method.gradient_masks() == {}
    densities = drive.method.densities()
    assert set(densities.gradient.values()) == {1.0}
    assert max(densities.forward.values()) < 0.3
    costs = costs_of(drive)
    expected = 4 * nonzeros(drive.method.masks) + 2 * 90
    assert drive.method.published_flops(costs) == pytest.approx(expected)
