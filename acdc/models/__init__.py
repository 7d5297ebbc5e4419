"""Network architectures by name, sized for a data set's channels and classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from acdc.data import DATASETS

if TYPE_CHECKING:
    from torch import nn

    from acdc.layers import Layers


def _resnet(depth: int, **shape: int) -> Callable[[int, int], nn.Module]:
    def build(channels: int, classes: int) -> nn.Module:
        from acdc.models.resnet import ResNet

        return ResNet(depth, channels, classes, **shape)

    return build


def _resnet50(channels: int, classes: int) -> nn.Module:
    from torch import nn

    from acdc.models.vision import torchvision_models

    model: nn.Module = torchvision_models().resnet50(num_classes=classes)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model


def _mobilenet_v1(channels: int, classes: int) -> nn.Module:
    from acdc.models.mobilenet import MobileNetV1

    return MobileNetV1(channels, classes)


def _wide_resnet(depth: int, widening: int) -> Callable[[int, int], nn.Module]:
    def build(channels: int, classes: int) -> nn.Module:
        from acdc.models.wide_resnet import WideResNet

        return WideResNet(depth, widening, channels, classes)

    return build


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    # Residual networks for small images (He et al. 2015, Section 4.2): depth 6n + 2.
    "resnet8": _resnet(8),
    "resnet20": _resnet(20),
    # The same with a stem of stride 2, four times cheaper.
    "resnet8_s2": _resnet(8, stem_stride=2),
    "resnet20_s2": _resnet(20, stem_stride=2),
    # A stem of 5 x 5 and stride 4, cheap enough for a laptop's minutes.
    "resnet8_s4": _resnet(8, stem_stride=4, stem_kernel=5),
    # The paper's networks, for images of 224 x 224 (the first two) and 32 x 32.
    "resnet50": _resnet50,
    "mobilenet_v1": _mobilenet_v1,
    "wrn28_10": _wide_resnet(28, 10),
}
"""From a name to a function of (input channels, classes) that builds the network."""


@functools.cache
def layers_of(model: str, dataset: str) -> Layers:
    """Return the prunable layers of a network sized for a data set; its weights are discarded."""
    import torch

    from acdc.layers import prunable_layers

    spec = DATASETS[dataset]
    # Built for real: on the meta device, initialisers would import torch's compiler.
    with torch.random.fork_rng(devices=[]):
        return prunable_layers(MODELS[model](spec.channels, spec.classes))
