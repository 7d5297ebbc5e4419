"""The prunable layers of a network, and the names that settings use for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from acdc.messages import config_error

LayerKind = Literal["convolution", "depthwise", "linear", "embedding"]


@dataclass(frozen=True)
class Layer:
    """Shape and kind of a prunable layer."""

    shape: tuple[int, ...]
    """Shape of the weight: (outputs, inputs / groups, height, width) or (outputs, inputs)."""
    kind: LayerKind

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


Layers = Mapping[str, Layer]
"""By the name of the weight, such as ``layer1.0.conv1.weight``, in the order of the modules."""


def prunable_layers(model: nn.Module) -> dict[str, Layer]:
    """Return the layers with weights to prune: convolutions, linear layers and embeddings.

    Embeddings are exempt unless a setting of their own prunes them. Biases and normalisation are
    never pruned (paper, Section 4).
    """
    return {
        f"{name}.weight" if name else "weight": Layer(tuple(module.weight.shape), _kind(module))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding)
    }


def _kind(module: nn.Conv2d | nn.Linear | nn.Embedding) -> LayerKind:
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Linear):
        return "linear"
    return "depthwise" if module.groups == module.in_channels > 1 else "convolution"


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of the prunable layers."""
    return {name: model.get_parameter(name) for name in prunable_layers(model)}


def embeddings(layers: Layers) -> tuple[str, ...]:
    """Return the layers that are embeddings."""
    return tuple(name for name, layer in layers.items() if layer.kind == "embedding")


def dense_layers(layers: Layers, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the layers that settings keep dense, embeddings included, in the modules' order.

    Args:
        layers: all prunable layers.
        wanted: names of layers, or ``first``, ``last``, ``depthwise``, ``shortcut`` (of the latter
            two there may be none).

    Raises:
        ConfigError: a name is none of these, or no layer is left to prune.
    """
    names = [name for name, layer in layers.items() if layer.kind != "embedding"]
    groups = {
        "first": names[:1],
        "last": names[-1:],
        "depthwise": [name for name, layer in layers.items() if layer.kind == "depthwise"],
        # As the networks here, and torchvision's, name the convolutions around a block.
        "shortcut": [name for name in names if {"shortcut", "downsample"} & set(name.split("."))],
    }
    dense: set[str] = set()
    for name in wanted:
        if name not in layers and name not in groups:
            problem = "not a prunable layer of this model"
            raise config_error("settings.dense_layers", name, problem, [*groups, *names])
        dense.update(groups.get(name, [name]))
    if dense == set(names):
        given = ", ".join(wanted)
        raise config_error("settings.dense_layers", given, "no layer is left to prune", "fewer")
    return tuple(name for name in layers if name in dense or name not in names)
