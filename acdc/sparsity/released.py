"""The selection rules of IST-DASLab's released code: one weight too few, and no ties."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from acdc.sparsity.masks import Masks
from acdc.sparsity.selection import Scope, groups, kth_largest


def strictly_above_masks(scores: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Return the masks of IST's ``percentile`` rule: strictly above the ceil(N (1 - s))-th largest.

    The threshold's own weight is dropped with all its ties, so that one weight too few is kept, or
    fewer. At sparsity 0 everything is kept (IST-DASLab/ACDC and WoodFisher, utils/utils.py).

    Args:
        scores: ranked over all layers together.
        sparsity: wanted fraction of zeros, in [0, 1).
    """
    if sparsity == 0:
        return {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}
    total = sum(score.numel() for score in scores.values())
    threshold, _ = kth_largest(list(scores.values()), math.ceil(total * (1 - sparsity)))
    return {name: score > threshold for name, score in scores.items()}


def released_masks(weights: Mapping[str, Tensor], sparsity: float, scope: Scope) -> Masks:
    """Return the masks of the released AC/DC code, which ranks |w| + 1e-4.

    IST-DASLab/ACDC, policies/pruners.py, UnstructuredMagnitudePruner before any mask, and
    MagnitudePruner, one layer at a time.
    """
    scores = {name: weight.detach().abs() + 1e-4 for name, weight in weights.items()}
    masks: Masks = {}
    for group in groups(scores, scope):
        masks |= strictly_above_masks(group, sparsity)
    return masks
