"""What methods read and change of the optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Optimizer


def reset_momentum(optimizer: Optimizer) -> None:
    """Set all that an optimizer has accumulated to zero, so that it steps as if it were new.

    That is SGD's momentum; the averages of gradients and of their squares with Adam and LAMB, and
    Adam's count of steps. Without the squares and the count, a weight that a mask held back for
    long would return with a step of (1 - beta1) / sqrt(1 - beta2), 3.2 learning rates, and longer
    ones after it: its squares have decayed, and no bias is corrected late in training.
    """
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()


def optimizer_slots(optimizer: Optimizer, parameter: nn.Parameter) -> list[Tensor]:
    """Return what an optimizer keeps for each single weight: momentum, or the two averages."""
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
