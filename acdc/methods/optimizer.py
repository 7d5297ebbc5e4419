"""What methods read and change of the optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Optimizer


def reset_momentum(optimizer: Optimizer) -> None:
    """Set every momentum buffer to zero, also those of parameters that have no gradient now."""
    for state in optimizer.state.values():
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"].zero_()


def optimizer_slots(optimizer: Optimizer, parameter: nn.Parameter) -> list[Tensor]:
    """Return what an optimizer keeps for each single weight: momentum, or Adam's two averages."""
    return [
        value
        for value in optimizer.state.get(parameter, {}).values()
        if isinstance(value, Tensor) and value.shape == parameter.shape
    ]


def mask_slots(
    optimizer: Optimizer, weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]
) -> None:
    """Set what an optimizer keeps for weights outside the masks to zero, in place."""
    for name, mask in masks.items():
        for slot in optimizer_slots(optimizer, weights[name]):
            slot.mul_(mask)
