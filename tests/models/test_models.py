"""Networks have the sizes that were published, and compute what torchvision's own blocks do."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from acdc.data import DATASETS
from acdc.models import MODELS
from acdc.models.mobilenet import MobileNetV1
from acdc.models.resnet import Block, Bottleneck, ResNet
from acdc.models.wide_resnet import WideResNet
from acdc.sparsity.flops import dense_flops, layer_costs
from acdc.sparsity.layers import prunable_layers
from acdc.vision import torchvision_models


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "size", "flops", "weights", "layers", "count"),
    [
        ("resnet50", 1000, 224, 8_178_368_512, 25_502_912, 54, 25_557_032),
        ("mobilenet_v1", 1000, 224, 2 * 568_740_352, 4_209_088, 28, 4_231_976),
        ("wrn28_10", 100, 32, 11_902_350_336, 36_518_832, 29, 36_546_980),
        ("resnet20", 10, 32, 81_626_368, 270_896, 22, 272_474),
    ],
)
def test_costs_of_the_papers_networks(
    name: str, classes: int, size: int, flops: int, weights: int, layers: int, count: int
) -> None:
    model = MODELS[name](3, classes)
    costs = layer_costs(model, (3, size, size))
    assert dense_flops(costs) == flops
    assert sum(cost.weights for cost in costs) == weights
    assert len(costs) == layers
    assert parameters(model) == count


def test_resnet20_counted_by_hand() -> None:
    stem = 32**2 * 9 * 3 * 16
    first = 6 * 32**2 * 9 * 16**2
    # A stage begins with a convolution of half the inputs and a shortcut of 1 x 1.
    second = 16**2 * (9 * 16 * 32 + 5 * 9 * 32**2 + 16 * 32)
    third = 8**2 * (9 * 32 * 64 + 5 * 9 * 64**2 + 32 * 64)
    macs = stem + first + second + third + 64 * 10
    assert dense_flops(layer_costs(MODELS["resnet20"](3, 10), (3, 32, 32))) == 2 * macs


@pytest.mark.parametrize(
    ("multiplier", "million_parameters", "million_macs"),
    [(1.0, 4.2, 569), (0.75, 2.6, 325), (0.5, 1.3, 149), (0.25, 0.5, 41)],
)
def test_mobilenet_width_multiplier(
    multiplier: float, million_parameters: float, million_macs: float
) -> None:
    """Howard et al. 2017, Table 6."""
    model = MobileNetV1(3, 1000, multiplier=multiplier)
    assert round(parameters(model) / 1e6, 1) == million_parameters
    assert round(dense_flops(layer_costs(model, (3, 224, 224))) / 2e6) == million_macs


@pytest.mark.parametrize(
    ("depth", "widening", "million_parameters"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (28, 10, 36.5), (22, 8, 17.2), (16, 8, 11.0)],
)
def test_wide_resnet_sizes(depth: int, widening: int, million_parameters: float) -> None:
    """Zagoruyko and Komodakis 2016, Tables 3 and 4."""
    with torch.device("meta"):
        model = WideResNet(depth, widening, 3, 10)
    # Theirs have no biases in their convolutions.
    biases = sum(
        module.bias.numel()
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.bias is not None
    )
    assert round((parameters(model) - biases) / 1e6, 1) == million_parameters


@pytest.mark.parametrize(
    ("depth", "bottlenecks", "million_parameters"),
    [(20, False, 0.27), (56, False, 0.85), (110, False, 1.7), (164, True, 1.7)],
)
def test_resnet_sizes(depth: int, bottlenecks: bool, million_parameters: float) -> None:
    """He et al. 2015, Table 6; with bottlenecks He et al. 2016, Table 4."""
    model = ResNet(depth, 3, 10, bottlenecks=bottlenecks)
    places = 2 if million_parameters < 1 else 1
    # Theirs have no convolution in the shortcuts of the first kind.
    shortcuts = 0
    if not bottlenecks:
        shortcuts = sum(p.numel() for name, p in model.named_parameters() if "shortcut" in name)
    assert round((parameters(model) - shortcuts) / 1e6, places) == million_parameters


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5 if "var" in name else -0.5, 1.0, generator=generator)


@pytest.mark.parametrize(("inputs", "stride"), [(16, 1), (64, 1), (64, 2)])
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_blocks_are_torchvisions(kind: str, inputs: int, stride: int) -> None:
    peers = torchvision_models().resnet
    ours, peer = (Block, peers.BasicBlock) if kind == "basic" else (Bottleneck, peers.Bottleneck)
    width = 16
    outputs = width * ours.expansion
    changes = stride != 1 or inputs != outputs
    downsample = (
        nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        if changes
        else None
    )
    theirs = peer(inputs, width, stride, downsample)
    mine = ours(inputs, width, stride)
    randomise(theirs)
    mine.load_state_dict(
        {
            name.replace("downsample", "shortcut"): value
            for name, value in theirs.state_dict().items()
        }
    )
    x = torch.randn(3, inputs, 7, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mine.train()(x), theirs.train()(x))
    assert torch.equal(mine.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].kind == "images"])
def test_networks_on_small_grey_images(name: str) -> None:
    spec = DATASETS["fashion_mnist_1k"]
    model = MODELS[name](*spec.sizes)
    outputs: dict[str, tuple[int, ...]] = {}
    for layer, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda _m, _i, out, layer=layer: outputs.update({layer: tuple(out.shape)})
            )
    costs = layer_costs(model, (1, 28, 28))
    for cost in costs:
        shape = outputs[cost.name.removesuffix(".weight")]
        positions = math.prod(shape[2:])
        assert cost.flops == 2 * positions * cost.weights
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_relatives_have_the_kinds_of_layers_of_the_originals() -> None:
    def kinds(name: str, channels: int) -> set[tuple[str, tuple[int, ...]]]:
        layers = list(prunable_layers(MODELS[name](channels, 10)).values())
        # The stem's kernel is chosen for the size of the images.
        return {(layer.kind, layer.shape[2:]) for layer in layers[1:]}

    relatives = {
        "resnet50": "resnet6_w24_s8",
        "mobilenet_v1": "mobilenet_v1_b4_s4",
        "wrn28_10": "wrn10_2_w8_s4",
        "resnet20": "resnet6_w32_s8",
    }
    for original, relative in relatives.items():
        assert kinds(relative, 1) == kinds(original, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResNet(9, 1, 10), r"depth 9 is not 6 n \+ 2"),
        (lambda: ResNet(2, 1, 10), r"depth 2 is not 6 n \+ 2"),
        (lambda: ResNet(11, 1, 10, bottlenecks=True, stages=2), r"depth 11 is not 6 n \+ 2"),
        (lambda: ResNet(8, 1, 10, bottlenecks=True), r"depth 8 is not 9 n \+ 2"),
        (lambda: WideResNet(12, 2, 1, 10), r"depth 12 is not 6 n \+ 4"),
    ],
)
def test_impossible_depths(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_torchvision_is_imported_once() -> None:
    assert torchvision_models() is torchvision_models()
    with torch.device("meta"):
        model = torchvision_models().resnet18()
    assert parameters(model) == 11_689_512
