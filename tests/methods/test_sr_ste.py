"""SR-STE keeps N of every M stored weights at every step, and trains all of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acdc.step import Step
from baselines.sr_ste import sparse_refined_gradient
from tests.support import Drive, hashval, stored_weights, tiny_config


class EvenNet(nn.Module):
    """A convolution and two linear layers whose inputs are multiples of 4, but for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.mix = nn.Conv2d(4, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.hidden = nn.Linear(8, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.mix(torch.tanh(self.conv(x)))).flatten(1)
        return self.out(torch.tanh(self.hidden(x)))


def sr_ste(sparsity: float = 0.5, lr: float = 0.2, **settings: Any) -> Drive:
    config = tiny_config("sr_ste", sparsity=sparsity, settings=settings, recipe={"lr": lr})
    torch.manual_seed(1)
    return Drive(config, model=EvenNet())


def groups(tensor: Tensor, m: int) -> list[list[float]]:
    """Return the groups along the inputs, in plain Python."""
    flat = tensor.movedim(1, -1).reshape(-1).tolist()
    return [flat[i : i + m] for i in range(0, len(flat), m)]


@pytest.mark.parametrize(("pattern", "sparsity", "n"), [("2:4", 0.5, 2), ("1:4", 0.75, 1)])
def test_masks_follow_the_stored_weights(pattern: str, sparsity: float, n: int) -> None:
    drive = sr_ste(sparsity, lr=0.5, pattern=pattern)
    changed = 0
    for before in drive.walk():
        assert list(drive.method.masks) == ["mix.weight", "hidden.weight", "out.weight"]
        for name, mask in drive.method.masks.items():
            assert torch.equal(drive.weights[name] != 0, mask)
            weight = stored_weights(drive)[name]
            for kept, values in zip(groups(mask, 4), groups(weight, 4), strict=True):
                order = sorted(range(4), key=lambda i: (-abs(values[i]), i))
                assert kept == [i in order[:n] for i in range(4)]
            changed += int((mask != before.masks[name]).sum())
    assert changed > 0
    assert drive.method.product(Step(0, 4, 5)) == "sparse"


def test_the_refined_gradient_by_hand() -> None:
    weight, gradient = hashval((3, 4), 1), hashval((3, 4), 2)
    mask = torch.tensor([[1, 0, 0, 1]] * 3).bool()
    refined = sparse_refined_gradient(gradient, weight, mask, 0.5)
    for row in range(3):
        for column in range(4):
            expected = float(gradient[row, column])
            if column in (1, 2):
                expected += 0.5 * float(weight[row, column])
            assert float(refined[row, column]) == pytest.approx(expected)
    assert torch.equal(sparse_refined_gradient(gradient, weight, mask, 0.0), gradient)


@pytest.mark.parametrize("strength", [0.0, 2e-4, 0.3])
def test_straight_through_gradient_and_decay(strength: float) -> None:
    drive = sr_ste(strength=strength)
    recipe = drive.config.recipe
    pulled = 0
    for before in drive.walk():
        for name, weight in stored_weights(drive).items():
            gradient = before.gradients[name] + recipe.weight_decay * before.stored[name]
            if name in before.masks:
                out = ~before.masks[name]
                gradient[out] += strength * before.stored[name][out]
                pulled += int((before.gradients[name][out] != 0).sum())
            velocity = recipe.momentum * before.momentum[name] + gradient
            torch.testing.assert_close(weight, before.stored[name] - recipe.lr * velocity)
    assert pulled > 0
    assert drive.method.gradient_masks() == {}


def test_flat_groups_take_any_layer() -> None:
    # The first convolution has one input and 36 weights, which are nine groups.
    drive = sr_ste(dense_layers=[], grouping="flat").run()
    assert int((drive.weights["conv.weight"] != 0).sum()) == 18


def test_densities_of_a_pattern() -> None:
    densities = sr_ste().run().method.densities()
    assert densities.forward == {
        "conv.weight": 1.0, "mix.weight": 0.5, "hidden.weight": 0.5, "out.weight": 0.5
    }  # fmt: skip
    assert set(densities.gradient.values()) == {1.0}
