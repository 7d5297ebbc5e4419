"""The algorithms of the exact top-k: by a sample and one pass on a CPU, by radix elsewhere.

``selection`` has what methods call. Results are exact counts with ties by position, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]

# Size of the sample that brackets the threshold; no more scores than that are ranked directly.
_SAMPLE = 1 << 17
# Scores worked on at a time by the CPU: what is derived from them stays in its cache.
_CHUNK = 1 << 18
# Scores worked on at a time by the radix selection, which bounds its memory.
_RADIX_CHUNK = 1 << 20
_DIGIT_BITS = 16
# Integer type of the same width as each floating type.
_INTEGERS = {
    torch.float64: (torch.int64, 64),
    torch.float32: (torch.int32, 32),
    torch.float16: (torch.int16, 16),
    torch.bfloat16: (torch.int16, 16),
}


@dataclass(frozen=True)
class Cut:
    """The k-th largest score, how many are larger, and how far the masks are done."""

    threshold: float
    above: int
    inside: tuple[tuple[Array, Array], ...] = ()
    """By layer, positions in memory and values of the only scores of which the masks do not hold
    yet whether they are above the threshold; empty if the masks hold nothing."""


def find_cut(scores: Sequence[Tensor], masks: Iterable[Tensor], k: int, magnitudes: bool) -> Cut:
    """Return the cut at the k-th largest of all scores together.

    Args:
        scores: tensors of one floating dtype and device, without NaN; -0.0 equals 0.
        masks: one for each tensor, boolean and of its memory layout; filled in part, see
            ``Cut.inside``.
        k: 1 to the total number of scores.
        magnitudes: whether absolute values are ranked.
    """
    total = sum(score.numel() for score in scores)
    if not 1 <= k <= total:
        raise ValueError(f"k is {k}, not 1 to {total}")
    cut = None
    if scores[0].device.type == "cpu":
        cut = _cut_by_sample(scores, masks, k, magnitudes)
    return cut or _cut_by_radix(scores, k, magnitudes)


def _cut_by_sample(
    scores: Sequence[Tensor], masks: Iterable[Tensor], k: int, magnitudes: bool
) -> Cut | None:
    """Bracket the threshold by a sample, then read all scores once.

    The pass marks and counts the scores at or above the bracket and collects those strictly inside,
    which are ranked exactly. A threshold that is an end of the bracket, as with many ties, takes
    another pass. Returns None if the threshold is elsewhere, or if too much would be collected:
    the sample was then unlike the whole.
    """
    total = sum(score.numel() for score in scores)
    orders = [memory_order(score) for score in scores]
    layers = list(map(_flat, scores, orders))
    low, high = _bracket(layers, k, magnitudes)
    above = collected = 0
    inside = []

    def scan(part: Tensor, mask: Tensor) -> tuple[int, Array, Array]:
        values = _array(part, magnitudes)
        at_or_above = np.greater_equal(values, high, out=mask.numpy())
        between = values > low
        np.greater(between, at_or_above, out=between)
        positions = between.nonzero()[0]
        return int(np.count_nonzero(at_or_above)), positions, values[positions]

    for layer, order, mask in zip(layers, orders, masks, strict=True):
        marks = mask.permute(*order).view(-1)
        parts = zip(torch.split(layer, _CHUNK), torch.split(marks, _CHUNK), strict=True)
        found = [scan(part, marked) for part, marked in parts]
        above += sum(count for count, _, _ in found)
        positions = np.concatenate([p + i * _CHUNK for i, (_, p, _) in enumerate(found)])
        inside.append((positions, np.concatenate([values for _, _, values in found])))
        collected += len(positions)
        if collected > max(_SAMPLE, total // 16):
            return None
    if k <= above:
        larger = _count(layers, np.greater, high, magnitudes)
        return Cut(float(high), larger) if larger < k else None
    if k > above + collected:
        not_smaller = _count(layers, np.greater_equal, low, magnitudes)
        return Cut(float(low), above + collected) if k <= not_smaller else None
    ranked = np.concatenate([values for _, values in inside])
    place = len(ranked) - (k - above)
    ranked.partition(place)
    threshold = ranked[place]
    above += int(np.count_nonzero(ranked[place:] > threshold))
    return Cut(float(threshold), above, tuple(inside))


def _bracket(layers: Sequence[Tensor], k: int, magnitudes: bool) -> tuple[Any, Any]:
    """Return two values between which the k-th largest most likely is."""
    total = sum(layer.numel() for layer in layers)
    if total <= _SAMPLE:
        return -math.inf, math.inf
    # Prime to 2 and 3, so that no position of a kernel and no channel is favoured.
    stride = total // _SAMPLE // 6 * 6 + 1
    parts, offset = [], 0
    for layer in layers:
        parts.append(layer[offset::stride])
        offset = (offset - layer.numel()) % stride
    sample = _array(torch.cat(parts), magnitudes)
    size = len(sample)
    place = size * (1 - k / total)
    # Four standard deviations of the place that the threshold would have in a random sample.
    margin = 4 * math.sqrt(place * k / total) + 1
    low, high = math.floor(place - margin), math.ceil(place + margin)
    sample.partition([index for index in (low, high) if 0 <= index < size] or 0)
    return sample[low] if low >= 0 else -math.inf, sample[high] if high < size else math.inf


def _count(layers: Sequence[Tensor], compare: np.ufunc, edge: Any, magnitudes: bool) -> int:
    return sum(
        int(np.count_nonzero(compare(_array(part, magnitudes), edge)))
        for layer in layers
        for part in torch.split(layer, _CHUNK)
    )


def _array(values: Tensor, magnitudes: bool) -> Array:
    # numpy has no bfloat16 and is slow at float16; every value of theirs is a float.
    array: Array = (values.float() if values.element_size() == 2 else values).numpy()
    return np.abs(array) if magnitudes else array


def memory_order(tensor: Tensor) -> list[int]:
    """Return the dimensions, the one with the largest stride first."""
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def _flat(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """Return a flat view with the dimensions in this order, or a copy if they have gaps."""
    return tensor.permute(*order).reshape(-1)


def _cut_by_radix(scores: Sequence[Tensor], k: int, magnitudes: bool) -> Cut:
    """Find the threshold's bit pattern, 16 bits at a time, from the histogram of each digit.

    Each pass reads all scores once and adds one histogram of 65,536 counts over all layers.
    """
    dtype = scores[0].dtype
    integer, width = _INTEGERS[dtype]
    bins = 1 << _DIGIT_BITS
    sign = 1 << (width - 1)
    prefix = 0
    remaining = k
    for shift in range(width - _DIGIT_BITS, -1, -_DIGIT_BITS):
        histogram = torch.zeros(bins, dtype=torch.int64, device=scores[0].device)
        for score in scores:
            for part in torch.split(_flat(score, memory_order(score)), _RADIX_CHUNK):
                values = part.abs() if magnitudes else part + 0.0  # both make 0 of -0.0
                bits = values.view(integer)
                # Read without a sign, keys are in the order of the values: the larger a negative
                # value's bits, the smaller it is.
                keys = bits ^ ((bits >> (width - 1)) & (sign - 1)) ^ -sign
                above = shift + _DIGIT_BITS
                if above < width:
                    keys = keys[((keys >> above) & ((1 << (width - above)) - 1)) == prefix]
                digits = (keys >> shift).to(torch.int64) & (bins - 1)
                histogram += torch.bincount(digits, minlength=bins)
        # Scores at or above each digit; the digit of the k-th largest is the last that still
        # has k scores at or above it.
        at_or_above = histogram.flip(0).cumsum(0).flip(0)
        digit = int((at_or_above >= remaining).sum()) - 1
        if digit < bins - 1:
            remaining -= int(at_or_above[digit + 1])
        prefix = (prefix << _DIGIT_BITS) | digit
    bits_of_threshold = prefix - sign if prefix >= sign else -1 - prefix
    threshold = torch.tensor(bits_of_threshold, dtype=integer).view(dtype)
    return Cut(float(threshold), k - remaining)


def complete(
    mask: Tensor,
    order: Sequence[int],
    threshold: float,
    wanted: int,
    positions: Array,
    values: Array,
) -> int:
    """Mark the collected scores above the threshold and the first ``wanted`` ties; count those."""
    flat = mask.permute(*order).view(-1).numpy()
    flat[positions[values > threshold]] = True
    ties = positions[values == threshold]
    if len(ties) > wanted:
        found = np.unravel_index(ties, [mask.shape[dimension] for dimension in order])
        by_dimension = dict(zip(order, found, strict=True))
        row_major = np.ravel_multi_index(
            tuple(by_dimension[dimension] for dimension in range(mask.dim())), mask.shape
        )
        ties = ties[np.argsort(row_major)[:wanted]]
    flat[ties] = True
    return len(ties)


def fill(mask: Tensor, values: Tensor, threshold: float, wanted: int) -> int:
    """Mark the scores above the threshold and the first ``wanted`` ties; count those."""
    torch.gt(values, threshold, out=mask)
    if wanted == 0:
        return 0
    ties = (values == threshold).contiguous()
    count = int(ties.count_nonzero())
    if count > wanted:
        flat = ties.view(-1)
        flat[int(flat.nonzero()[wanted]) :] = False
        count = wanted
    mask |= ties
    return count
