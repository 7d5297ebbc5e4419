"""Masks as values: how many weights each layer keeps, and what is counted of masks.

A mask is a boolean tensor of its weight's shape, true where the weight is active.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Masks = dict[str, Tensor]


def count_zeros(sparsity: float, size: int) -> int:
    """Return how many of ``size`` weights are zero at ``sparsity``: floor(sparsity * size).

    The rule of RigL's ``get_mask_random`` (rigl/sparse_utils.py).
    """
    return math.floor(sparsity * size)


def random_masks(
    shapes: Mapping[str, torch.Size], sparsities: Mapping[str, float], generator: torch.Generator
) -> Masks:
    """Return masks with exactly the wanted number of zeros per layer, at random positions.

    rigl/sparse_utils.py, get_mask_random. Drawn on the CPU.
    """
    masks: Masks = {}
    for name, shape in shapes.items():
        size = shape.numel()
        order = torch.randperm(size, generator=generator)
        mask = torch.ones(size, dtype=torch.bool)
        mask[order[: count_zeros(sparsities[name], size)]] = False
        masks[name] = mask.reshape(shape)
    return masks


def count_nonzeros(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of non-zero entries of each tensor, with one transfer from the device."""
    counts = torch.stack([torch.count_nonzero(tensor) for tensor in tensors.values()]).tolist()
    return dict(zip(tensors, counts, strict=True))


def mask_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """Return three measures of how much masks changed from one pruning to the next.

    ``relative``: the released code's measure, twice the number of weights that came in divided by
    all prunable weights (policies/manager.py); ``of_kept``: weights that came in divided by those
    kept; ``jaccard``: intersection over union.
    """
    entered = sum(int((after[name] & ~before[name]).sum()) for name in after)
    kept = sum(int(mask.sum()) for mask in after.values())
    union = sum(int((after[name] | before[name]).sum()) for name in after)
    total = sum(mask.numel() for mask in after.values())
    return {
        "relative": 2 * entered / total,
        "of_kept": entered / kept if kept else 0.0,
        "jaccard": (kept - entered) / union if union else 1.0,
    }
