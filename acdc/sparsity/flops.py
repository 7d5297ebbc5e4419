"""FLOPs of sparse networks, layer by layer, counting the weights that are not zero.

A multiply-add is two FLOPs. Convolutions and linear layers are counted, biases, normalisation,
activations and pooling are not (paper, Appendix C.2; dense ResNet50: 8,178,368,512).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from acdc.sparsity.layers import prunable_layers


@dataclass(frozen=True)
class LayerCost:
    """The dense cost of one layer for one sample, an image or a token."""

    name: str
    """The name of the layer's weight, such as ``layer1.0.conv1.weight``, or of a product of
    activations, such as ``attention``."""
    weights: int
    """0 for what multiplies activations, which no mask makes cheaper."""
    flops: int
    """Two per multiply-add of a dense forward pass over one sample."""


def layer_costs(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[LayerCost, ...]:
    """Return each prunable layer's dense cost, in the order of the modules.

    Every use of a weight counts: an output position of a convolution, a row of a linear layer.

    Args:
        model: left as it was; run once on zeros in evaluation mode.
        input_shape: of one image, (C, H, W).
    """
    layers = prunable_layers(model)
    uses = dict.fromkeys(layers, 0)

    def count(name: str, _module: nn.Module, _inputs: object, outputs: torch.Tensor) -> None:
        uses[name] += outputs.numel() // layers[name].shape[0]

    handles = [
        model.get_submodule(name.rpartition(".")[0]).register_forward_hook(partial(count, name))
        for name in layers
    ]
    training = model.training
    parameter = next(model.parameters())
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return tuple(
        LayerCost(name, layer.size, 2 * layer.size * uses[name]) for name, layer in layers.items()
    )


def forward_flops(costs: tuple[LayerCost, ...], densities: Mapping[str, float]) -> float:
    """Return the FLOPs of a forward pass over one image at the given densities per layer.

    A layer without a density counts as dense.
    """
    return sum(cost.flops * densities.get(cost.name, 1.0) for cost in costs)


def dense_flops(costs: tuple[LayerCost, ...]) -> int:
    """Return the FLOPs of a dense forward pass over one image (F in the paper)."""
    return sum(cost.flops for cost in costs)


def step_flops(
    costs: tuple[LayerCost, ...], forward: Mapping[str, float], gradient: Mapping[str, float]
) -> float:
    """Return the training FLOPs for one image: forward, error and weight gradient.

    The forward pass and the back-propagated error use the forward densities, the weight gradient
    its own. So dense training costs 3 F, a compressed step 3 f_C and a decompressed one 2 f_D + F
    (paper, Appendix C.2), and RigL (3 f_S dT + 2 f_S + F) / (dT + 1) (its Appendix H).
    """
    return 2 * forward_flops(costs, forward) + forward_flops(costs, gradient)
