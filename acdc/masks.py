"""Masks as values: how many weights each layer keeps, which ones, and how a mask is applied.

A mask is a boolean tensor of its weight's shape, true where the weight is active. Every selection
here keeps an exact count and breaks ties by position: of equal scores, the one in the earlier
layer, then at the lower flat index, is kept. Selections return the same masks on every device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Masks = dict[str, Tensor]

# Integer type of the same width as each floating type: the bits of non-negative floats, read as
# integers, are in the order of their values.
_BITS = {
    torch.float64: (torch.int64, 64),
    torch.float32: (torch.int32, 32),
    torch.float16: (torch.int16, 16),
    torch.bfloat16: (torch.int16, 16),
}
_DIGIT_BITS = 16
# Up to here partitioning a copy is faster than two histograms, and the copy is small.
_FEW = 1 << 22


def count_zeros(sparsity: float, size: int) -> int:
    """Return how many of ``size`` weights are zero at ``sparsity``: floor(sparsity * size).

    The rule of RigL's ``get_mask_random`` (rigl/sparse_utils.py), used for every method here.
    """
    return math.floor(sparsity * size)


def kth_largest(scores: Sequence[Tensor], k: int) -> tuple[float, int]:
    """Return the k-th largest of all scores together, and how many are strictly larger.

    Few scores on the CPU are joined and partitioned. Otherwise it is an exact radix selection over
    the bit patterns, 16 bits at a time: each pass reads the scores once and adds one histogram of
    65,536 counts over all tensors, so the layers are never joined or sorted.

    Args:
        scores: non-negative tensors (-0.0 counts as 0) of one floating dtype and device; no NaN.
        k: 1 to the total number of scores.
    """
    total = sum(score.numel() for score in scores)
    if not 1 <= k <= total:
        raise ValueError(f"k is {k}; 1 to {total} is accepted")
    if total <= _FEW and scores[0].device.type == "cpu":
        return _kth_largest_of_few(scores, k)
    return _kth_largest_by_radix(scores, k)


def _kth_largest_of_few(scores: Sequence[Tensor], k: int) -> tuple[float, int]:
    # numpy has no bfloat16; every value of it is a float.
    flat = [score.detach().reshape(-1) for score in scores]
    wide = [score.float() if score.dtype == torch.bfloat16 else score for score in flat]
    joined = np.concatenate([score.numpy() for score in wide])
    joined.partition(len(joined) - k)
    threshold = joined[len(joined) - k]
    return float(threshold), int(np.count_nonzero(joined[len(joined) - k :] > threshold))


def _kth_largest_by_radix(scores: Sequence[Tensor], k: int) -> tuple[float, int]:
    integer, width = _BITS[scores[0].dtype]
    bits = [score.detach().reshape(-1).view(integer) for score in scores]
    digit_mask = (1 << _DIGIT_BITS) - 1
    magnitude_mask = (1 << (width - 1)) - 1  # all but the sign, which only -0.0 has
    prefix = 0
    remaining = k
    for shift in range(width - _DIGIT_BITS, -1, -_DIGIT_BITS):
        histogram = torch.zeros(digit_mask + 1, dtype=torch.int64, device=bits[0].device)
        for values in bits:
            if shift + _DIGIT_BITS < width:
                above = shift + _DIGIT_BITS
                values = values[((values >> above) & (magnitude_mask >> above)) == prefix]
            digits = ((values >> shift) & (magnitude_mask >> shift & digit_mask)).to(torch.int64)
            histogram += torch.bincount(digits, minlength=digit_mask + 1)
        # Scores at or above each digit; the digit of the k-th largest is the last that still
        # has k scores at or above it.
        at_or_above = histogram.flip(0).cumsum(0).flip(0)
        digit = int((at_or_above >= remaining).sum()) - 1
        if digit < digit_mask:
            remaining -= int(at_or_above[digit + 1])
        prefix = (prefix << _DIGIT_BITS) | digit
    threshold = torch.tensor(prefix, dtype=integer).view(scores[0].dtype)
    return float(threshold), k - remaining


def top_k_masks(scores: Mapping[str, Tensor], k: int) -> Masks:
    """Return masks that keep exactly the ``k`` largest of all scores together.

    Ties at the threshold go to the earlier layer (in the mapping's order), then the lower index.

    Args:
        scores: non-negative tensors of one dtype and device.
        k: 0 to the total number of scores.
    """
    total = sum(score.numel() for score in scores.values())
    if k == 0:
        return {name: torch.zeros_like(s, dtype=torch.bool) for name, s in scores.items()}
    if k == total:
        return {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}
    threshold, above = kth_largest(list(scores.values()), k)
    masks = {name: score > threshold for name, score in scores.items()}
    wanted = k - above
    for name, score in scores.items():
        if wanted == 0:
            break
        ties = (score == threshold).reshape(-1).nonzero().reshape(-1)[:wanted]
        masks[name].view(-1)[ties] = True
        wanted -= ties.numel()
    return masks


def top_k_mask(score: Tensor, k: int) -> Tensor:
    """Return the mask of exactly the ``k`` largest scores of one layer, ties to the lower index."""
    return top_k_masks({"": score.contiguous()}, k)[""]


def global_magnitude_masks(weights: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Return masks that keep the largest magnitudes over all layers together, with exact count."""
    scores = {name: weight.detach().abs().contiguous() for name, weight in weights.items()}
    total = sum(score.numel() for score in scores.values())
    return top_k_masks(scores, total - count_zeros(sparsity, total))


def layer_magnitude_masks(weights: Mapping[str, Tensor], sparsities: Mapping[str, float]) -> Masks:
    """Return masks that keep the largest magnitudes of each layer at its own sparsity."""
    return {
        name: top_k_mask(
            weight.detach().abs(),
            weight.numel() - count_zeros(sparsities[name], weight.numel()),
        )
        for name, weight in weights.items()
    }


def released_acdc_masks(weights: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Return the global masks of the released AC/DC code, one weight short and without ties.

    That code takes the ceil(N (1 - s))-th largest of |w| + 1e-4 as a threshold and keeps what is
    strictly greater, so that it drops the threshold's own weight and all its ties (IST-DASLab/ACDC,
    policies/pruners.py and utils/utils.py). At sparsity 0 it keeps everything.
    """
    scores = {name: weight.detach().abs() + 1e-4 for name, weight in weights.items()}
    total = sum(score.numel() for score in scores.values())
    if sparsity == 0:
        return {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}
    threshold, _ = kth_largest(list(scores.values()), math.ceil(total * (1 - sparsity)))
    return {name: score > threshold for name, score in scores.items()}


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


def uniform_sparsities(
    names: Sequence[str], sparsity: float, dense: Sequence[str] = ()
) -> dict[str, float]:
    """Return the same sparsity for every layer, and 0 for the layers kept dense."""
    return {name: 0.0 if name in dense else sparsity for name in names}


def erk_sparsities(
    shapes: Mapping[str, Sequence[int]],
    sparsity: float,
    *,
    custom: Mapping[str, float] | None = None,
    power: float = 1.0,
    include_kernel: bool = True,
) -> dict[str, float]:
    """Return Erdos-Renyi-Kernel sparsities whose overall sparsity is the wanted one.

    A layer's density is proportional to (sum of its dimensions / product of its dimensions)^power.
    Layers whose density would exceed 1 are made dense and the rest is solved again; in each round
    only the layers with the largest raw density are moved, as in the original
    (Evci et al. 2020, Section 3 (1); rigl/sparse_utils.py, get_sparsities_erdos_renyi).

    Args:
        shapes: layer shapes; with ``include_kernel`` false (plain Erdos-Renyi) the first two
            dimensions are taken as output and input, PyTorch's order.
        sparsity: wanted fraction of zeros over all layers that are not in ``custom``.
        custom: layers whose sparsity is given; they are left out of the budget.
        power: exponent of the raw density (``erk_power_scale`` of the original).
        include_kernel: count the kernel's dimensions too; false is plain Erdos-Renyi.
    """
    custom = dict(custom or {})
    free = [name for name in shapes if name not in custom]
    sizes = {name: math.prod(shapes[name]) for name in free}
    raw = {}
    for name in free:
        dims = list(shapes[name]) if include_kernel else list(shapes[name])[:2]
        raw[name] = (sum(dims) / math.prod(dims)) ** power
    dense: set[str] = set()
    epsilon = 0.0
    while open_layers := [name for name in free if name not in dense]:
        budget = sum(sizes[name] for name in open_layers)
        budget -= sum(count_zeros(sparsity, sizes[name]) for name in free)
        epsilon = budget / sum(raw[name] * sizes[name] for name in open_layers)
        largest = max(raw[name] for name in open_layers)
        if largest * epsilon <= 1:
            break
        dense.update(name for name in open_layers if raw[name] == largest)
    result = {name: 0.0 if name in dense else 1 - epsilon * raw[name] for name in free}
    return {name: custom.get(name, result.get(name, 0.0)) for name in shapes}


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
