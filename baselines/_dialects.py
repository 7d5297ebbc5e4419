"""How three code bases prune gradually: what they rank, what they keep, and when.

Rules are in single precision where the original's are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from acdc.sparsity.masks import Masks
from acdc.sparsity.released import strictly_above_masks
from acdc.sparsity.selection import Scope, masks_at
from baselines._ramps import even_updates, updates_before_end, updates_since_last

DialectName = Literal["zhu_gupta", "contrib", "ist"]
Grid = Callable[[int, int, int], tuple[int, ...]]


@dataclass
class Histogram:
    """What contrib's rule needs beside the scores: its resolution, and its last thresholds."""

    nbins: int
    decay: float
    thresholds: dict[str, float] = field(default_factory=dict)
    """By layer; a missing one is 0, where the original starts."""


Rule = Callable[[Mapping[str, Tensor], float, Histogram], Masks]
"""Masks of layers that are ranked together, from their scores and a sparsity."""


def exact_rule(scores: Mapping[str, Tensor], sparsity: float, _: Histogram) -> Masks:
    """Return masks with exactly floor(s N) zeros, ties kept at the lower index."""
    return masks_at(scores, sparsity)


def strict_rule(scores: Mapping[str, Tensor], sparsity: float, _: Histogram) -> Masks:
    """Return IST's masks: scores strictly above the ceil(N (1 - s))-th largest."""
    return strictly_above_masks(scores, sparsity)


def histogram_rule(scores: Mapping[str, Tensor], sparsity: float, histogram: Histogram) -> Masks:
    """Return contrib's masks of each layer: scores strictly above a smoothed histogram threshold.

    The thresholds are kept in ``histogram`` (pruning.py, _update_mask).
    """
    masks: Masks = {}
    for name, score in scores.items():
        threshold = smoothed_threshold(
            histogram_threshold(score, sparsity, histogram.nbins),
            histogram.thresholds.get(name, 0.0),
            histogram.decay,
        )
        histogram.thresholds[name] = threshold
        masks[name] = score > threshold
    return masks


def histogram_threshold(score: Tensor, sparsity: float, nbins: int) -> float:
    """Return contrib's threshold of one layer, in single precision throughout.

    The range from 0 to the largest score is cut into bins of equal width; the threshold is the
    upper edge of the last bin up to which less than ``sparsity`` of the scores lie, so that up to
    one bin too few are pruned (pruning.py and pruning_utils.py).

    Args:
        score: non-negative.
        sparsity: wanted fraction below the threshold.
        nbins: number of bins.
    """
    values = score.detach().float().reshape(-1)
    largest = values.max()
    bins = (nbins * (values / largest)).floor().clamp(0, nbins - 1).nan_to_num().long()
    counts = torch.bincount(bins, minlength=nbins).cpu().numpy().astype(np.float32)
    cumulative = np.cumsum(counts, dtype=np.float32)
    below = np.float32(np.count_nonzero(cumulative / cumulative[-1] < np.float32(sparsity)))
    return float(below / np.float32(nbins) * np.float32(largest.item()))


def smoothed_threshold(current: float, last: float, decay: float) -> float:
    """Return the moving average of thresholds, in single precision: (1 - d) current + d last."""
    kept = np.float32(decay) * np.float32(last)
    return float(np.float32(1 - decay) * np.float32(current) + kept)


def magnitude(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Return |w| of the stored weights."""
    return weight.detach().abs()


def lifted_magnitude(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Return IST's (|w| + 1e-4) mask: a pruned weight ranks below every other and stays pruned."""
    score = weight.detach().abs() + 1e-4
    return score if mask is None else score * mask


def _every(grid: Grid) -> Grid:
    """Return a grid by the number of updates, given one by the distance between them."""

    def by_updates(begin: int, end: int, updates: int) -> tuple[int, ...]:
        return grid(begin, end, max(1, round((end - begin) / updates)))

    return by_updates


@dataclass(frozen=True)
class Dialect:
    """How one code base prunes gradually."""

    grid: Grid
    """Positions of the updates, from the ramp's begin and end and the number of updates."""
    rule: Rule
    distributions: tuple[Scope, ...]
    """What may be ranked together, the code base's own choice first."""
    unit: Literal["step", "epoch"] = "step"
    """What positions on the ramp count: masks are updated after a step, or before an epoch."""
    score: Callable[[Tensor, Tensor | None], Tensor] = magnitude
    """What is ranked, from the stored weight and the mask."""
    stored: bool = True
    """Pruned weights keep their value, which momentum and weight decay still act on; otherwise the
    weights are multiplied by the masks after every step."""
    histogram: bool = False
    """Whether the settings of contrib's histogram have an effect."""
    exact: bool = False
    """Ends at the requested sparsity, to a weight a layer."""


DIALECTS: dict[DialectName, Dialect] = {
    # Zhu and Gupta 2017, equation 1.
    "zhu_gupta": Dialect(even_updates, exact_rule, ("uniform", "global"), exact=True),
    # tensorflow/contrib/model_pruning, pruning.py.
    "contrib": Dialect(_every(updates_since_last), histogram_rule, ("uniform",), histogram=True),
    # IST-DASLab/ACDC, policies/pruners.py, whose configuration fine-tunes a dense network.
    "ist": Dialect(
        _every(updates_before_end),
        strict_rule,
        ("global", "uniform"),
        unit="epoch",
        score=lifted_magnitude,
        stored=False,
    ),
}
