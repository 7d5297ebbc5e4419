"""Network architectures by name, sized for a data set's channels and classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def _resnet(depth: int, **shape: int) -> Callable[[int, int], nn.Module]:
    def build(channels: int, classes: int) -> nn.Module:
        from acdc.models.resnet import ResNet

        return ResNet(depth, channels, classes, **shape)

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
}
"""From a name to a function of (input channels, classes) that builds the network."""
