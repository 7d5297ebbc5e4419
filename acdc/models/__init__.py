"""Network architectures by name, sized for a data set's channels and classes."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acdc import seeds
from acdc.data import DATASETS, ImageSpec, TextSpec

if TYPE_CHECKING:
    from torch import nn

    from acdc.sparsity.layers import Layers


@dataclass(frozen=True)
class Architecture:
    """A network of no size yet."""

    build: Callable[..., nn.Module]
    """Returns the network of some sizes."""
    kind: str = ImageSpec.kind
    """The kind of data sets that it suits."""

    def __call__(self, *sizes: int) -> nn.Module:
        """Return the network for a data set of these ``DatasetSpec.sizes``."""
        return self.build(*sizes)


def _network(name: str, *size: int, kind: str = ImageSpec.kind, **shape: Any) -> Architecture:
    """Return the network of a class, ``module.Class``, imported on use."""

    def build(*sizes: int) -> nn.Module:
        module, _, cls = name.partition(".")
        made: nn.Module = getattr(importlib.import_module(f"acdc.models.{module}"), cls)(
            *size, *sizes, **shape
        )
        return made

    return Architecture(build, kind)


_resnet = functools.partial(_network, "resnet.ResNet")
_wide_resnet = functools.partial(_network, "wide_resnet.WideResNet")
_mobilenet_v1 = functools.partial(_network, "mobilenet.MobileNetV1")
_transformer_xl = functools.partial(_network, "transformer_xl.TransformerXL", kind=TextSpec.kind)


def _resnet50(channels: int, classes: int) -> nn.Module:
    from torch import nn

    from acdc.vision import torchvision_models

    model: nn.Module = torchvision_models().resnet50(num_classes=classes)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model


_STEM: dict[str, Any] = {"stem_kernel": 7, "stem_stride": 4, "stem_pool": True}

_SMALL_TEXT: dict[str, Any] = {
    "cutoffs": (),
    "div_val": 1,
    "init_std": 0.02,
    "dropout": 0.1,
    "attention_dropout": 0.0,
}

MODELS: dict[str, Architecture] = {
    # Residual networks for small images (He et al. 2015, Section 4.2): depth 6n + 2.
    "resnet8": _resnet(8),
    "resnet20": _resnet(20),
    # The same with a stem of stride 2, four times cheaper.
    "resnet8_s2": _resnet(8, stem_stride=2),
    # A stem of 5 x 5 and stride 4, cheap enough for a laptop's minutes.
    "resnet8_s4": _resnet(8, stem_stride=4, stem_kernel=5),
    "resnet20_s4": _resnet(20, stem_stride=4, stem_kernel=5, norm_eps=1e-3),
    # The paper's networks, for images of 224 x 224 (the first two) and 32 x 32.
    "resnet50": Architecture(_resnet50),
    "mobilenet_v1": _mobilenet_v1(),
    "wrn28_10": _wide_resnet(28, 10),
    # Their relatives for grey images of 28 x 28 and a laptop's minutes, with fewer stages, blocks
    # and channels; the stem makes 4 x 4 or 7 x 7 of the images. On maps of 1 x 1, most
    # taps of a 3 x 3 kernel would see nothing but padding.
    "resnet6_w24_s8": _resnet(6, stages=2, width=24, norm_eps=1e-3, **_STEM),
    "resnet6_w32_s8": _resnet(6, stages=2, width=32, norm_eps=1e-3, **_STEM),
    "mobilenet_v1_b4_s4": _mobilenet_v1(blocks=4, stem_stride=4, norm_eps=1e-3),
    "wrn10_2_w8_s4": _wide_resnet(10, 2, width=8, stem_kernel=5, stem_stride=4),
    # Narrow filters, most of which lose all weights at 95 %: AC/DC fails here (docs/results.md).
    "resnet8_bottleneck_s8": _resnet(8, bottlenecks=True, stages=2, **_STEM),
    # Relatives for images of 28 x 28 or 32 x 32 and one GPU.
    "mobilenet_v1_x0_5_s1": _mobilenet_v1(multiplier=0.5, stem_stride=1),
    "wrn16_4": _wide_resnet(16, 4),
    # The large model for WikiText-103, and small ones without adaptive embeddings.
    "transformer_xl": _transformer_xl(),
    "transformer_xl_l2_w32": _transformer_xl(
        layers=2, width=32, heads=2, head_width=16, inner=128, **_SMALL_TEXT
    ),
    "transformer_xl_l2_w64": _transformer_xl(
        layers=2, width=64, heads=4, head_width=16, inner=256, **_SMALL_TEXT
    ),
    "transformer_xl_l3_w96": _transformer_xl(
        layers=3, width=96, heads=4, head_width=24, inner=384, **_SMALL_TEXT
    ),
    "transformer_xl_l6_w192": _transformer_xl(
        layers=6, width=192, heads=6, head_width=32, inner=768, **_SMALL_TEXT
    ),
}
"""The networks by name."""


@functools.cache
def layers_of(model: str, dataset: str) -> Layers:
    """Return the prunable layers of a network sized for a data set; its weights are discarded."""
    import torch

    from acdc.sparsity.layers import prunable_layers

    # Not on the meta device, where initialisers import torch's compiler.
    with torch.random.fork_rng(devices=[]):
        return prunable_layers(MODELS[model](*DATASETS[dataset].sizes))


def build_model(model: str, dataset: str, seed: int) -> nn.Module:
    """Return a network with the initial weights of a seed, the same for every method."""
    import torch

    from acdc.models.normalization import accurate

    with torch.random.fork_rng(devices=[]):
        seeds.seed_device(torch.device("cpu"), seeds.derive(seed, "initial_weights"))
        network = MODELS[model](*DATASETS[dataset].sizes)
    # torch's annotations of Module.to lack the memory format.
    return accurate(network).to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]
