"""Applying masks to weights and gradients, in one call over all layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from acdc.sparsity.masks import Masks


def apply_masks(weights: Mapping[str, Tensor], masks: Masks) -> None:
    """Set the weights outside the masks to zero, in place."""
    with torch.no_grad():
        _multiply([weights[name] for name in masks], masks)


def mask_gradients(weights: Mapping[str, nn.Parameter], masks: Masks) -> None:
    """Set the gradients outside the masks to zero, in place."""
    gradients = {name: weights[name].grad for name in masks}
    present = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    _multiply(list(present.values()), {name: masks[name] for name in present})


def _multiply(tensors: list[Tensor], masks: Masks) -> None:
    if tensors:
        # Read as bytes, ones and zeros are multiplied twice as fast on a CPU as truth values.
        torch._foreach_mul_(tensors, [mask.view(torch.int8) for mask in masks.values()])


class StoredWeights:
    """Keeps the stored values of weights that a mask takes out of the forward pass.

    Between ``park`` and ``restore`` the parameters hold mask * w and this holds the rest; the two
    add up to the stored weights exactly, since of each pair one is zero.
    """

    def __init__(self) -> None:
        self.parked: dict[str, Tensor] = {}

    def park(self, weights: Mapping[str, nn.Parameter], masks: Masks) -> None:
        """Take the values outside the masks out of the parameters."""
        if not masks:
            return
        with torch.no_grad():
            effective: list[Tensor] = [weights[name] for name in masks]
            stored = [weight.detach().clone() for weight in effective]
            _multiply(effective, masks)
            torch._foreach_sub_(stored, effective)
        self.parked = dict(zip(masks, stored, strict=True))

    def restore(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Put the parked values back into the parameters."""
        if self.parked:
            with torch.no_grad():
                stored: list[Tensor] = [weights[name] for name in self.parked]
                torch._foreach_add_(stored, list(self.parked.values()))
            self.parked = {}
