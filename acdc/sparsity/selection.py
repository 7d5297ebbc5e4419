"""Which weights are kept: the exact top-k over one layer, or over all layers together.

Every selection keeps an exact count and breaks ties by position: of equal scores, the one in the
earlier layer, then at the lower row-major index, is kept, whatever the memory format. Selections
return the same masks on every device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from acdc.sparsity.masks import Masks, count_zeros
from acdc.sparsity.topk import complete, fill, find_cut, memory_order

Scope = Literal["global", "uniform"]
"""Rank the weights of all layers together, or give every layer the same sparsity."""


def kth_largest(scores: Sequence[Tensor], k: int, *, magnitudes: bool = False) -> tuple[float, int]:
    """Return the k-th largest of all scores together, and how many are strictly larger.

    Args:
        scores: tensors of one floating dtype and device, without NaN; -0.0 equals 0.
        k: 1 to the total number of scores.
        magnitudes: whether absolute values are ranked.
    """
    unused = (torch.empty_like(score, dtype=torch.bool) for score in scores)
    cut = find_cut([score.detach() for score in scores], unused, k, magnitudes)
    return cut.threshold, cut.above


def top_k_masks(scores: Mapping[str, Tensor], k: int, *, magnitudes: bool = False) -> Masks:
    """Return masks that keep exactly the ``k`` largest of all scores together.

    Ties at the threshold go to the earlier layer (in the mapping's order), then the lower index.
    Beside the masks it needs a few per cent of the memory of the scores on the CPU.

    Args:
        scores: tensors of one floating dtype and device, without NaN; -0.0 equals 0.
        k: 0 to the total number of scores.
        magnitudes: whether absolute values are ranked.
    """
    layers = [score.detach() for score in scores.values()]
    masks = {name: torch.empty_like(score, dtype=torch.bool) for name, score in scores.items()}
    if k == 0:
        return {name: mask.zero_() for name, mask in masks.items()}
    cut = find_cut(layers, masks.values(), k, magnitudes)
    wanted = k - cut.above
    for index, (score, mask) in enumerate(zip(layers, masks.values(), strict=True)):
        if cut.inside:
            order = memory_order(score)
            wanted -= complete(mask, order, cut.threshold, wanted, *cut.inside[index])
        else:
            wanted -= fill(mask, score.abs() if magnitudes else score, cut.threshold, wanted)
    return masks


def top_k_mask(score: Tensor, k: int, *, magnitudes: bool = False) -> Tensor:
    """Return the mask of exactly the ``k`` largest scores of one layer, ties to the lower index."""
    return top_k_masks({"": score}, k, magnitudes=magnitudes)[""]


def top_k_rows(scores: Tensor, k: int | Tensor, *, magnitudes: bool = False) -> Tensor:
    """Return the mask of the ``k`` largest scores of each row, ties to the lower index.

    Args:
        scores: (..., N), without NaN; -0.0 equals 0.
        k: 0 to N; a tensor, broadcast to (...), where rows keep different numbers.
        magnitudes: whether absolute values are ranked.
    """
    values = scores.detach().abs() if magnitudes else scores.detach()
    size = values.shape[-1]
    wanted = torch.as_tensor(k, device=values.device).expand(values.shape[:-1]).unsqueeze(-1)
    if isinstance(k, int):
        last = torch.topk(values, max(k, 1), dim=-1, sorted=False).values.amin(-1, keepdim=True)
    else:
        ranked = torch.sort(values, dim=-1, descending=True).values
        last = ranked.gather(-1, (wanted - 1).clamp(0, size - 1))
    above = values > last
    tied = values == last
    places = wanted - above.sum(-1, keepdim=True)
    # Not asked whether there are too many, for which an accelerator would be waited for. Where k is
    # 0, no place is left, and what is above the largest is nothing.
    return above | (tied & (tied.cumsum(-1) <= places))


def groups(scores: Mapping[str, Tensor], scope: Scope) -> list[Mapping[str, Tensor]]:
    """Return the layers that are ranked together."""
    return [scores] if scope == "global" else [{name: score} for name, score in scores.items()]


def masks_at(scores: Mapping[str, Tensor], sparsity: float, *, magnitudes: bool = False) -> Masks:
    """Return masks with exactly floor(s N) zeros: the lowest of all scores together; see above."""
    total = sum(score.numel() for score in scores.values())
    return top_k_masks(scores, total - count_zeros(sparsity, total), magnitudes=magnitudes)


def magnitude_masks(weights: Mapping[str, Tensor], sparsity: float, scope: Scope) -> Masks:
    """Return masks that keep the largest magnitudes, with exact counts."""
    masks: Masks = {}
    for group in groups(weights, scope):
        masks |= masks_at(group, sparsity, magnitudes=True)
    return masks
