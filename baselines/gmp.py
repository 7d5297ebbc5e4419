"""GMP: gradual magnitude pruning along a cubic ramp, in the dialects of seven code bases.

Zhu and Gupta 2017, "To prune, or not to prune"; tensorflow/contrib/model_pruning as used by Gale,
Elsen and Hooker 2019 (threshold decay 0) and by RigL's baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from acdc.errors import ConfigError
from acdc.flops import LayerCost, step_flops
from acdc.masks import Masks, count_nonzeros, count_zeros
from acdc.method import (
    Context,
    Deviation,
    Product,
    ScopedSettings,
    SparseMethod,
    StoredWeights,
    apply_masks,
    mask_gradients,
)
from acdc.ramps import (
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
from acdc.schedules import Step
from acdc.selection import kth_largest, strictly_above_masks, top_k_masks

if TYPE_CHECKING:
    from acdc.config import RunConfig

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


class Settings(ScopedSettings):
    """The dialect, the ramp in fractions of training, and what is ranked."""

    dialect: DialectName = "zhu_gupta"
    """The code base whose schedule, counts and treatment of pruned weights to follow."""
    begin: float = Field(default=0.25, ge=0, lt=1)
    """Where the ramp starts, as a fraction of training (paper, CIFAR-100: epoch 50 of 200)."""
    end: float = Field(default=0.75, gt=0, lt=1)
    """Where the target is reached, as a fraction of training (paper: epoch 150 of 200)."""
    updates: int = Field(default=50, ge=1)
    """Mask updates on the ramp, evenly spaced; the last one is at its end. Other dialects divide
    the ramp by it to get their distance between updates, in whole steps or epochs."""
    initial_sparsity: float = Field(default=0.0, ge=0, lt=1)
    """Sparsity at the start of the ramp."""
    distribution: Distribution | None = None
    """Prune every layer to the same sparsity, or rank the weights of all layers together; null: the
    dialect's own, which for zhu_gupta is uniform."""
    nbins: int = Field(default=256, ge=1)
    """Bins of the histogram by which contrib finds its threshold (255 in older copies)."""
    threshold_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of contrib's moving average of thresholds (its default is 0.9; Gale et al. and RigL set
    it to 0)."""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.begin >= self.end:
            raise ConfigError(
                f"settings.begin: {self.begin} is not before settings.end {self.end}; "
                "a value below it is accepted"
            )
        dialect = DIALECTS[self.dialect]
        for key in ("updates", "initial_sparsity", "nbins", "threshold_decay"):
            value, default = getattr(self, key), type(self).model_fields[key].default
            if key not in dialect.uses and value != default:
                raise ConfigError(
                    f"settings.{key}: {value} means nothing to dialect {self.dialect}; the default "
                    f"{default} is accepted"
                )
        if self.distribution not in (None, *dialect.distributions):
            raise ConfigError(
                f"settings.distribution: {self.distribution} is not how dialect {self.dialect} "
                f"ranks; null and {', '.join(dialect.distributions)} are accepted"
            )
        return self

    def variant(self) -> str:
        parts = [] if self.dialect == "zhu_gupta" else [str(self.dialect)]
        if self.distribution not in (None, DIALECTS[self.dialect].distributions[0]):
            parts.append(str(self.distribution))
        return "-".join([*parts, *self.dense_layers])


class GMP(SparseMethod):
    """Prunes to a sparsity that rises as a cubic, by default exactly to the target.

    In the dialect of Zhu and Gupta pruned weights keep their value and may return: the forward pass
    uses mask * w, the loss gradient of a pruned weight is zero, but weight decay and momentum still
    act on it and the next ranking sees it.
    """

    name = "gmp"
    label = "GMP"
    source = (
        "Zhu, Gupta: To prune, or not to prune. 2017. Code: tensorflow/contrib/model_pruning, "
        "as used in Gale, Elsen, Hooker 2019 (google-research/state_of_sparsity)."
    )
    deviations = (
        Deviation(
            original="finds the threshold through a histogram of 255 bins, so that the sparsity "
            "is approximate",
            ours="keeps the exact count, ties to the lower index (dialect: contrib restores "
            "theirs)",
            why="the target sparsity is then reached exactly",
        ),
        Deviation(
            original="updates the masks at multiples of a frequency, the last one perhaps before "
            "the end of the ramp",
            ours="spaces the updates evenly from the beginning to the end of the ramp (dialect: "
            "contrib restores theirs)",
            why="the ramp then ends at its target, however long training is",
        ),
    )
    flops_formula = "mean over steps of 3 f_D (1 - s_t) (Evci et al. 2020, Appendices H and N)"
    Settings = Settings

    @property
    def sparsity_tolerance(self) -> float:
        """Zero for the default; the other dialects end short of their target or approximate it."""
        return 0.0 if self.dialect.exact else 0.0125

    @property
    def dialect(self) -> Dialect:
        """How the code base that is followed prunes."""
        return DIALECTS[self.settings.dialect]

    @classmethod
    def check(cls, config: RunConfig) -> None:
        super().check(config)
        settings = config.settings
        assert isinstance(settings, Settings)
        if settings.initial_sparsity > config.sparsity:
            raise ConfigError(
                f"settings.initial_sparsity: {settings.initial_sparsity} is above the sparsity "
                f"{config.sparsity}; a value up to it is accepted"
            )

    def setup(self, context: Context) -> None:
        super().setup(context)
        length = context.config.epochs if self.dialect.by_epoch else context.iterations
        begin = min(round(self.settings.begin * length), length - 1)
        end = max(round(self.settings.end * length), begin + 1)
        self.ramp = (begin, end)
        grid = self.dialect.grid(begin, end, self.settings.updates)
        self.updates, self.last_update = frozenset(grid), grid[-1]
        self.histogram = Histogram(self.settings.nbins, self.settings.threshold_decay)
        self.stored = StoredWeights()
        self.rate = 0.0
        self.spent = dict.fromkeys(self.weights, 0.0)
        self.steps = 0
        self.in_force: dict[str, float] | None = None
        if self.dialect.when == "after_step" and 0 in self.updates:
            self._update(0)
            self._hide()

    def epoch_start(self, step: Step) -> None:
        self.spent = dict.fromkeys(self.weights, 0.0)
        self.steps = 0
        if self.dialect.by_epoch and step.epoch in self.updates:
            self.stored.restore(self.weights)
            self._update(step.epoch)
            self._hide()

    def before_step(self, step: Step) -> bool:
        self._count()
        if not self.dialect.dense_gradient:
            mask_gradients(self.weights, self.masks)
        self.stored.restore(self.weights)
        if self.dialect.when == "before_step" and step.iteration in self.updates:
            self._update(step.iteration)
        return True

    def after_step(self, step: Step) -> None:
        steps_taken = step.iteration + 1
        if self.dialect.when == "after_step" and steps_taken in self.updates:
            self._update(steps_taken)
        elif self.dialect.when == "every_step" and self.masks:
            self.masks = self._select()
        self._hide()

    def _update(self, position: int) -> None:
        self.rate = self.dialect.ramp(
            position, *self.ramp, self.settings.initial_sparsity, self.sparsity
        )
        self.masks = self._select()
        self.in_force = None
        batches = self.context.batches_per_epoch if self.dialect.by_epoch else 1
        self.events.add(
            "prune",
            iteration=position * batches,
            sparsity=self.rate,
            nonzeros=count_nonzeros(self.masks),
        )

    def _select(self) -> Masks:
        """Return new masks at the current rate, from the stored weights in the parameters."""
        scores = {
            name: self.dialect.score(weight, self.masks.get(name)).contiguous()
            for name, weight in self.ranked.items()
        }
        distribution = self.settings.distribution or self.dialect.distributions[0]
        groups = [scores] if distribution == "global" else [{n: s} for n, s in scores.items()]
        masks: Masks = {}
        for group in groups:
            masks |= self.dialect.rule(group, self.rate, self.histogram)
        # In the memory layout of the weights, so that the two are multiplied in one sweep.
        return {
            name: torch.empty_like(self.weights[name], dtype=torch.bool).copy_(mask)
            for name, mask in masks.items()
        }

    def _hide(self) -> None:
        """Take pruned weights out of the forward pass."""
        if self.dialect.stored:
            self.stored.park(self.weights, self.masks)
        else:
            apply_masks(self.weights, self.masks)

    def _count(self) -> None:
        """Add the densities of the step's forward pass to those of the epoch."""
        if self.in_force is None:
            kept = self.kept()
            self.in_force = {name: kept[name] / w.numel() for name, w in self.weights.items()}
        for name, density in self.in_force.items():
            self.spent[name] += density
        self.steps += 1

    def published_flops(self, costs: tuple[LayerCost, ...]) -> float:
        """Return the cost of the epoch's mean densities; masks change within an epoch."""
        mean = {name: spent / self.steps for name, spent in self.spent.items()}
        return step_flops(costs, mean, mean)

    def gradient_masks(self) -> Masks:
        return {} if self.dialect.dense_gradient else self.masks

    def product(self, step: Step) -> Product | None:
        position = step.epoch if self.dialect.by_epoch else step.iteration
        if self.dialect.when == "after_step":
            position += 1
        return "sparse" if position >= self.last_update else None

    def phase(self, step: Step) -> str:
        if not self.masks:
            return "dense"
        return "sparse" if self.product(step) else "ramp"

    def state_dict(self) -> dict[str, Any]:
        return {
            "masks": self.masks,
            "parked": self.stored.parked,
            "rate": self.rate,
            "thresholds": self.histogram.thresholds,
            "spent": self.spent,
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.stored.parked = dict(state["parked"])
        self.rate = state["rate"]
        self.histogram.thresholds = dict(state["thresholds"])
        self.spent = dict(state["spent"])
        self.steps = state["steps"]
        self.in_force = None
