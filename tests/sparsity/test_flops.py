"""FLOPs agree with counts by hand and with the original's counter, dense and sparse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from acdc.sparsity.flops import LayerCost, dense_flops, forward_flops, layer_costs, step_flops
from acdc.sparsity.layers import prunable_weights
from acdc.vision import torchvision_models
from tests.support import TinyNet


@pytest.mark.parametrize(
    ("layer", "input_shape", "macs"),
    [
        # 5 x 5 positions, 4 filters, 3 x 3 x 2 multiply-adds each.
        (nn.Conv2d(2, 4, 3), (2, 7, 7), 5 * 5 * 4 * 18),
        (nn.Conv2d(2, 4, 3, padding=1), (2, 7, 7), 7 * 7 * 4 * 18),
        # Stride 2 over 7 + 2 pixels: 4 positions each way.
        (nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 7, 7), 4 * 4 * 4 * 18),
        # Two groups: each filter sees half of the channels.
        (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5), 5 * 5 * 6 * 2 * 9),
        # Depthwise.
        (nn.Conv2d(4, 4, 3, groups=4), (4, 5, 5), 3 * 3 * 4 * 9),
        (nn.Conv2d(2, 4, 3, dilation=2), (2, 7, 7), 3 * 3 * 4 * 18),
        (nn.Conv2d(2, 3, (1, 5), stride=(2, 1)), (2, 6, 9), 3 * 5 * 3 * 10),
        (nn.Linear(10, 7), (10,), 70),
        # A linear layer applied to each of 6 positions.
        (nn.Linear(10, 7), (6, 10), 6 * 70),
    ],
)
def test_one_layer_costs_what_a_count_by_hand_says(
    layer: nn.Module, input_shape: tuple[int, ...], macs: int
) -> None:
    (cost,) = layer_costs(nn.Sequential(layer), input_shape)
    assert cost.name == "0.weight"
    assert cost.flops == 2 * macs
    weight = layer.weight
    assert cost.weights == weight.numel()


def test_cost_counts_uses() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(4, 4)
            self.idle = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.shared(x))

    costs = layer_costs(Twice(), (4,))
    assert [(cost.name, cost.flops) for cost in costs] == [
        ("shared.weight", 2 * 2 * 16),
        ("idle.weight", 0),
    ]


def test_counting_leaves_the_model_as_it_was() -> None:
    net = TinyNet()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    layer_costs(net, (1, 2, 2))
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_biases_and_normalisation_are_not_prunable() -> None:
    assert list(prunable_weights(TinyNet())) == ["conv.weight", "hidden.weight", "out.weight"]


def test_sparse_uniform_resnet50_has_the_known_inference_cost() -> None:
    with torch.device("meta"):
        model = torchvision_models().resnet50()
    costs = layer_costs(model, (3, 224, 224))
    # Uniform over the 52 inner layers; ratios that follow from the architecture alone.
    for sparsity, ratio in ((0.5, 0.5147), (0.8, 0.2235), (0.9, 0.1264), (0.98, 0.0488)):
        densities = {cost.name: 1 - sparsity for cost in costs[1:-1]}
        ours = forward_flops(costs, densities) / dense_flops(costs)
        assert ours == pytest.approx(ratio, abs=5e-5)


COSTS = (LayerCost("a", 10, 400), LayerCost("b", 20, 40))
DENSITY = st.fixed_dictionaries({"a": st.floats(0, 1), "b": st.floats(0, 1)})


@given(DENSITY)
def test_steps_cost_what_the_paper_says_in_each_phase(density: dict[str, float]) -> None:
    dense = dict.fromkeys(density, 1.0)
    total = dense_flops(COSTS)
    forward = forward_flops(COSTS, density)
    assert forward == pytest.approx(400 * density["a"] + 40 * density["b"])
    assert step_flops(COSTS, dense, dense) == 3 * total
    assert step_flops(COSTS, density, density) == pytest.approx(3 * forward)
    assert step_flops(COSTS, density, dense) == pytest.approx(2 * forward + total)


def test_a_layer_without_a_density_counts_as_dense() -> None:
    assert forward_flops(COSTS, {"b": 0.5}) == 400 + 20
