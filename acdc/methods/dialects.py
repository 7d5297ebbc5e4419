"""How seven code bases prune gradually: what they rank, what they keep, and when.

One record a code base, made of small functions; what their ramps and update grids are is in
``acdc.methods.ramps``. Rules are in single precision where the original's are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from acdc.methods.ramps import (
    Ramp,
    bounded_cubic_ramp,
    cubic_ramp,
    early_cubic_ramp,
    even_updates,
    open_cubic_ramp,
    updates_at_multiples,
    updates_before_end,
    updates_since_begin,
    updates_since_last,
)
from acdc.sparsity.masks import Masks, count_zeros
from acdc.sparsity.selection import kth_largest, strictly_above_masks, top_k_masks

Distribution = Literal["uniform", "global"]
Grid = Callable[[int, int, int], tuple[int, ...]]


@dataclass
class Histogram:
    """What contrib's rule needs beside the scores: its resolution, and its last thresholds."""

    nbins: int
    decay: float
    thresholds: dict[str, float] = field(default_factory=dict)
    """By layer; an absent one is 0, where the original starts."""


Rule = Callable[[Mapping[str, Tensor], float, Histogram], Masks]
"""Masks of layers that are ranked together, from their scores and a sparsity."""


def exact_rule(scores: Mapping[str, Tensor], sparsity: float, _: Histogram) -> Masks:
    """Return masks with exactly floor(s N) zeros, ties kept at the lower index.

    RAIVNLab/STR prunes the same number, int(s N), and leaves ties to the sort (conv_type.py).
    """
    total = _size(scores)
    return top_k_masks(scores, total - count_zeros(sparsity, total))


def rounded_rule(scores: Mapping[str, Tensor], sparsity: float, _: Histogram) -> Masks:
    """Return jaxpruner's masks: round(N (1 - s)) weights in single precision, halves to even."""
    return top_k_masks(scores, _rounded_kept(_size(scores), sparsity))


def at_least_rule(scores: Mapping[str, Tensor], sparsity: float, _: Histogram) -> Masks:
    """Return tfmot's masks: all scores not below the k-th largest, k = max(round(N (1 - s)), 1).

    Ties at the threshold are all kept (pruning_impl.py, _update_mask).
    """
    k = max(_rounded_kept(_size(scores), sparsity), 1)
    threshold, _above = kth_largest(list(scores.values()), k)
    return {name: score >= threshold for name, score in scores.items()}


def strict_rule(scores: Mapping[str, Tensor], sparsity: float, _: Histogram) -> Masks:
    """Return IST's masks: scores strictly above the ceil(N (1 - s))-th largest."""
    return strictly_above_masks(scores, sparsity)


def truncated_strict_rule(scores: Mapping[str, Tensor], sparsity: float, _: Histogram) -> Masks:
    """Return GraNet's masks: scores strictly above the int(N (1 - s))-th largest (core.py).

    Where that number is 0 nothing is kept.
    """
    k = max(int(_size(scores) * (1 - sparsity)), 1)
    threshold, _above = kth_largest(list(scores.values()), k)
    return {name: score > threshold for name, score in scores.items()}


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


def _size(scores: Mapping[str, Tensor]) -> int:
    return sum(score.numel() for score in scores.values())


def _rounded_kept(size: int, sparsity: float) -> int:
    return int(np.round(np.float32(size) * (np.float32(1) - np.float32(sparsity))))


def magnitude(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Return |w| of the stored weights."""
    return weight.detach().abs()


def lifted_magnitude(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Return IST's (|w| + 1e-4) mask: a pruned weight ranks below every other and stays pruned."""
    score = weight.detach().abs() + 1e-4
    return score if mask is None else score * mask


def _every(grid: Grid) -> Grid:
    """Return a grid of a number of updates, given one of the distance between them."""

    def of_updates(begin: int, end: int, updates: int) -> tuple[int, ...]:
        return grid(begin, end, max(1, round((end - begin) / updates)))

    return of_updates


def _each_epoch(begin: int, end: int, updates: int) -> tuple[int, ...]:
    return updates_before_end(begin, end, 1)


@dataclass(frozen=True)
class Dialect:
    """How one code base prunes gradually."""

    source: str
    when: Literal["after_step", "before_step", "epoch_start", "every_step"]
    """Masks are updated after or before an optimizer step, or before an epoch; ``every_step``: the
    sparsity changes before an epoch, and the weights are ranked anew after every step. Steps and
    epochs are counted accordingly."""
    ramp: Ramp
    grid: Grid
    """Positions of the updates, from the ramp's begin and end and the number of updates."""
    rule: Rule
    score: Callable[[Tensor, Tensor | None], Tensor] = magnitude
    """What is ranked, from the stored weight and the mask."""
    stored: bool = False
    """Pruned weights keep their value, which momentum and weight decay still act on; otherwise the
    weights are multiplied by the masks after every step."""
    dense_gradient: bool = False
    """Pruned weights take part in the step, and their value after it in the ranking."""
    distributions: tuple[Distribution, ...] = ("uniform",)
    """What may be ranked together, the code base's own choice first."""
    uses: tuple[str, ...] = ("updates", "initial_sparsity")
    """The settings that mean something to it, of those that not every dialect has."""
    exact: bool = False
    """Ends at the requested sparsity, to a weight a layer."""

    @property
    def by_epoch(self) -> bool:
        """Whether positions are epochs rather than steps."""
        return self.when in ("epoch_start", "every_step")


DIALECTS: dict[str, Dialect] = {
    "zhu_gupta": Dialect(
        source="Zhu and Gupta 2017, equation 1",
        when="after_step",
        ramp=cubic_ramp,
        grid=even_updates,
        rule=exact_rule,
        stored=True,
        distributions=("uniform", "global"),
        exact=True,
    ),
    "contrib": Dialect(
        source="tensorflow/contrib/model_pruning, pruning.py",
        when="after_step",
        ramp=cubic_ramp,
        grid=_every(updates_since_last),
        rule=histogram_rule,
        stored=True,
        uses=("updates", "initial_sparsity", "nbins", "threshold_decay"),
    ),
    "tfmot": Dialect(
        source="tensorflow/model-optimization, pruning_schedule.py and pruning_impl.py",
        when="after_step",
        ramp=cubic_ramp,
        grid=_every(updates_since_begin),
        rule=at_least_rule,
        dense_gradient=True,
    ),
    "ist": Dialect(
        source="IST-DASLab/ACDC, policies/pruners.py; its configuration fine-tunes a dense network",
        when="epoch_start",
        ramp=cubic_ramp,
        grid=_every(updates_before_end),
        rule=strict_rule,
        score=lifted_magnitude,
        distributions=("global", "uniform"),
    ),
    "str": Dialect(
        source="RAIVNLab/STR, main.py and utils/conv_type.py",
        when="every_step",
        ramp=open_cubic_ramp,
        grid=_each_epoch,
        rule=exact_rule,
        stored=True,
        uses=(),
    ),
    "jaxpruner": Dialect(
        source="google-research/jaxpruner, sparsity_schedules.py and base_updater.py",
        when="before_step",
        ramp=early_cubic_ramp,
        grid=_every(updates_at_multiples),
        rule=rounded_rule,
        uses=("updates",),
    ),
    "granet": Dialect(
        source="VITA-Group/GraNet, core.py, without its regrowth",
        when="after_step",
        # The grid ends before the ramp does, so that there always is a value.
        ramp=cast(Ramp, bounded_cubic_ramp),
        grid=_every(updates_before_end),
        rule=truncated_strict_rule,
        distributions=("global",),
        uses=("updates",),
    ),
}

DialectName = Literal["zhu_gupta", "contrib", "tfmot", "ist", "str", "jaxpruner", "granet"]
