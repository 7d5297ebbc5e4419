"""Layers are found and named as settings speak of them."""

import pytest
import torch
from torch import nn

from acdc.errors import ConfigError
from acdc.models import MODELS, layers_of
from acdc.sparsity.layers import Layer, dense_layers, prunable_layers, prunable_weights
from tests.support import TinyNet


def test_prunable_layers() -> None:
    model = TinyNet()
    layers = prunable_layers(model)
    assert layers == {
        "conv.weight": Layer((2, 1, 3, 3), "convolution"),
        "hidden.weight": Layer((6, 8), "linear"),
        "out.weight": Layer((4, 6), "linear"),
    }
    assert [layer.size for layer in layers.values()] == [18, 48, 24]
    weights = prunable_weights(model)
    assert list(weights) == list(layers)
    assert weights["conv.weight"] is model.conv.weight


def test_a_single_layer_is_a_model_too() -> None:
    assert list(prunable_layers(nn.Linear(3, 2))) == ["weight"]


def test_a_convolution_with_a_group_per_channel_is_depthwise() -> None:
    def kind(inputs: int, groups: int) -> str:
        (layer,) = prunable_layers(nn.Conv2d(inputs, 8, 3, groups=groups)).values()
        return layer.kind

    assert kind(4, 4) == "depthwise"
    assert kind(4, 2) == kind(4, 1) == "convolution"
    # One channel in one group is an ordinary convolution of a grey image.
    assert kind(1, 1) == "convolution"


@pytest.mark.parametrize(
    ("model", "wanted", "pruned", "weights"),
    [
        # The paper's variants; counts from its released configurations and its Section 4.
        ("resnet50", ["first", "last"], 52, 23_445_504),
        ("mobilenet_v1", ["first", "depthwise"], 14, 4_163_584),
    ],
)
def test_layers_of_the_variants(model: str, wanted: list[str], pruned: int, weights: int) -> None:
    layers = prunable_layers(MODELS[model](3, 1000))
    dense = dense_layers(layers, wanted)
    rest = [layer.size for name, layer in layers.items() if name not in dense]
    assert (len(rest), sum(rest)) == (pruned, weights)
    # In the order of the modules.
    assert list(dense) == [name for name in layers if name in set(dense)]


def test_dense_layers_are_named_by_place_kind_or_name() -> None:
    layers = prunable_layers(TinyNet())
    assert dense_layers(layers, []) == ()
    assert dense_layers(layers, ["last", "conv.weight"]) == ("conv.weight", "out.weight")
    assert dense_layers(layers, ["depthwise"]) == ()
    with pytest.raises(ConfigError, match=r"^settings\.dense_layers=conv: "):
        dense_layers(layers, ["conv"])
    with pytest.raises(ConfigError, match=r"^settings\.dense_layers="):
        dense_layers(layers, ["first", "hidden.weight", "last"])


def test_layers_of_leaves_random_state_alone() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    layers_of.cache_clear()
    assert "fc.weight" in layers_of("resnet8", "digits")
    assert torch.equal(torch.rand(3), expected)


def test_shortcuts_are_the_convolutions_around_blocks() -> None:
    assert dense_layers(layers_of("resnet20", "fashion_mnist_1k"), ["shortcut"]) == (
        "layer2.0.shortcut.0.weight",
        "layer3.0.shortcut.0.weight",
    )
    # The released configurations of ResNet20 prune the other 20 of its 22 layers at 75 % and above.
    assert len(layers_of("resnet20", "fashion_mnist_1k")) == 22
    around = dense_layers(layers_of("resnet50", "imagenet"), ["shortcut"])
    assert around == tuple(f"layer{stage}.0.downsample.0.weight" for stage in (1, 2, 3, 4))
    assert dense_layers(prunable_layers(TinyNet()), ["shortcut"]) == ()
