"""GMP: gradual magnitude pruning along a cubic ramp, in the dialects of three code bases.

Zhu and Gupta 2017, "To prune, or not to prune"; tensorflow/contrib/model_pruning as used by Gale,
Elsen and Hooker 2019 (threshold decay 0) and by RigL's baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator

from acdc.messages import config_error
from acdc.methods.contract import Context, Deviation, Product, SparseMethod
from acdc.methods.plan import Plan
from acdc.methods.settings import ScopedSettings, check_order
from acdc.sparsity.apply import apply_masks, mask_gradients
from acdc.sparsity.flops import LayerCost, step_flops
from acdc.sparsity.masks import Masks, count_nonzeros
from acdc.sparsity.selection import Scope, groups
from acdc.step import Step
from baselines._dialects import DIALECTS, Dialect, DialectName, Histogram
from baselines._ramps import check_initial_sparsity, cubic_ramp, ramp_ends


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
    distribution: Scope | None = None
    """Prune every layer to the same sparsity, or rank the weights of all layers together; null: the
    dialect's own, which for zhu_gupta is uniform."""
    nbins: int = Field(default=256, ge=2, le=1 << 20)
    """Bins of the histogram by which contrib finds its threshold (255 in older copies)."""
    threshold_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of contrib's moving average of thresholds (its default is 0.9; Gale et al. and RigL set
    it to 0)."""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        check_order(self)
        dialect = DIALECTS[self.dialect]
        for key in () if dialect.histogram else ("nbins", "threshold_decay"):
            value, default = getattr(self, key), type(self).model_fields[key].default
            if value != default:
                raise config_error(
                    f"settings.{key}", value, f"no effect in dialect {self.dialect}", str(default)
                )
        if self.distribution not in (None, *dialect.distributions):
            raise config_error(
                "settings.distribution",
                self.distribution,
                f"not how dialect {self.dialect} ranks",
                [*dialect.distributions, "null"],
            )
        return self

    def schedule(self, epochs: int, batches: int) -> tuple[int, int, tuple[int, ...]]:
        """Return where the ramp begins and ends, and where masks are updated.

        In steps or in epochs, as the dialect counts.
        """
        dialect = DIALECTS[self.dialect]
        length = epochs if dialect.unit == "epoch" else epochs * batches
        begin, end = ramp_ends(self, length)
        return begin, end, dialect.grid(begin, end, self.updates)

    @property
    def ranking(self) -> Scope:
        """How the weights are ranked, by default as the dialect does."""
        return self.distribution or DIALECTS[self.dialect].distributions[0]


class GMP(SparseMethod[Settings]):
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

    @property
    def sparsity_tolerance(self) -> float:
        """Zero for the default dialect; others approximate the target, or end short of it."""
        return _tolerance(self.dialect)

    @property
    def dialect(self) -> Dialect:
        """How the code base that is followed prunes."""
        return DIALECTS[self.settings.dialect]

    @classmethod
    def check(cls, plan: Plan[Settings]) -> None:
        super().check(plan)
        settings = plan.settings
        check_initial_sparsity(settings.initial_sparsity, plan.sparsity)
        begin, end, grid = settings.schedule(plan.epochs, plan.batches_per_epoch)
        dialect = DIALECTS[settings.dialect]
        reached = cubic_ramp(grid[-1], begin, end, settings.initial_sparsity, plan.sparsity)
        if plan.sparsity - reached > _tolerance(dialect):
            raise config_error(
                "settings.end",
                settings.end,
                f"the ramp from {dialect.unit} {begin} to {end} has its last update in "
                f"{dialect.unit} {grid[-1]}, at sparsity {reached:.4g}, not {plan.sparsity:g}",
                f"a longer ramp or more updates, for dialect {settings.dialect}",
            )

    def setup(self, context: Context) -> None:
        super().setup(context)
        plan = self.plan
        begin, end, grid = self.settings.schedule(plan.epochs, plan.batches_per_epoch)
        self.ramp = (begin, end)
        self.updates, self.last_update = frozenset(grid), grid[-1]
        self.histogram = Histogram(self.settings.nbins, self.settings.threshold_decay)
        self.spent = dict.fromkeys(self.weights, 0.0)
        self.steps = 0
        self.in_force: dict[str, float] | None = None
        if self.dialect.unit == "step" and 0 in self.updates:
            self._update(0)
            self._hide()

    def epoch_start(self, step: Step) -> None:
        self.spent = dict.fromkeys(self.weights, 0.0)
        self.steps = 0
        if self.dialect.unit == "epoch" and step.epoch in self.updates:
            self._update(step.epoch)
            self._hide()

    def before_step(self, step: Step) -> bool:
        self._count()
        mask_gradients(self.weights, self.masks)
        self.stored.restore(self.weights)
        return True

    def needed_gradients(self) -> Masks:
        return self.gradient_masks()

    def after_step(self, step: Step) -> None:
        if self.dialect.unit == "step" and step.iteration + 1 in self.updates:
            self._update(step.iteration + 1)
        self._hide()

    def _update(self, position: int) -> None:
        rate = cubic_ramp(position, *self.ramp, self.settings.initial_sparsity, self.sparsity)
        self.masks = self._select(rate)
        self.in_force = None
        batches = self.plan.batches_per_epoch if self.dialect.unit == "epoch" else 1
        self.events.add(
            "prune",
            iteration=position * batches,
            sparsity=rate,
            nonzeros=count_nonzeros(self.masks),
        )

    def _select(self, rate: float) -> Masks:
        """Return masks of this sparsity, from the stored weights in the parameters."""
        scores = {
            name: self.dialect.score(weight, self.masks.get(name)).contiguous()
            for name, weight in self.ranked.items()
        }
        masks: Masks = {}
        for group in groups(scores, self.settings.ranking):
            masks |= self.dialect.rule(group, rate, self.histogram)
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

    def product(self, step: Step) -> Product | None:
        position = step.epoch if self.dialect.unit == "epoch" else step.iteration + 1
        return "sparse" if position >= self.last_update else None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "thresholds": self.histogram.thresholds,
            "spent": self.spent,
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.histogram.thresholds = dict(state["thresholds"])
        self.spent = dict(state["spent"])
        self.steps = state["steps"]
        self.in_force = None


def _tolerance(dialect: Dialect) -> float:
    return 0.0 if dialect.exact else 0.0125
