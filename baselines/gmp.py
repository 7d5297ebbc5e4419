"""GMP: gradual magnitude pruning along a cubic ramp, in the dialects of seven code bases.

Zhu and Gupta 2017, "To prune, or not to prune"; tensorflow/contrib/model_pruning as used by Gale,
Elsen and Hooker 2019 (threshold decay 0) and by RigL's baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator

from acdc.data import DATASETS
from acdc.errors import ConfigError
from acdc.methods.contract import (
    STORED_BYTES,
    Context,
    Densities,
    Deviation,
    Product,
    ScopedSettings,
    SparseMethod,
    StoredWeights,
    apply_masks,
    check_order,
    mask_gradients,
)
from acdc.methods.dialects import DIALECTS, Dialect, DialectName, Distribution, Histogram
from acdc.sparsity.flops import LayerCost, step_flops
from acdc.sparsity.masks import Masks, count_nonzeros
from acdc.step import Step

if TYPE_CHECKING:
    from acdc.config.run import RunConfig
    from workflow.forecast import Outlook


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
    nbins: int = Field(default=256, ge=2, le=1 << 20)
    """Bins of the histogram by which contrib finds its threshold (255 in older copies)."""
    threshold_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of contrib's moving average of thresholds (its default is 0.9; Gale et al. and RigL set
    it to 0)."""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        check_order(self.begin, self.end)
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

    def plan(self, epochs: int, batches: int) -> tuple[int, int, tuple[int, ...]]:
        """Return where the ramp begins and ends, and where masks are updated.

        In steps or in epochs, as the dialect counts.
        """
        dialect = DIALECTS[self.dialect]
        length = epochs if dialect.by_epoch else epochs * batches
        begin = min(round(self.begin * length), length - 1)
        end = max(round(self.end * length), begin + 1)
        grid = dialect.grid(begin, end, self.updates)
        if dialect.when == "before_step":
            # There is no step before which the end of training could have its update.
            grid = tuple(position for position in grid if position < length) or (begin,)
        return begin, end, grid

    @property
    def ranking(self) -> Distribution:
        """How the weights are ranked: as said, or by default as the dialect does."""
        return self.distribution or DIALECTS[self.dialect].distributions[0]


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

    @staticmethod
    def tolerance(dialect: Dialect) -> float:
        """Return by how much a dialect may end short of its target, or approximate it."""
        return 0.0 if dialect.exact else 0.0125

    @property
    def sparsity_tolerance(self) -> float:
        """Zero for the default dialect."""
        return self.tolerance(self.dialect)

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
        batches = DATASETS[config.dataset].training_images // config.recipe.batch_size
        begin, end, grid = settings.plan(config.epochs, batches)
        dialect = DIALECTS[settings.dialect]
        reached = dialect.ramp(grid[-1], begin, end, settings.initial_sparsity, config.sparsity)
        if config.sparsity - reached > cls.tolerance(dialect):
            unit = "epoch" if dialect.by_epoch else "step"
            raise ConfigError(
                f"settings.end: the ramp from {unit} {begin} to {end} has its last update in "
                f"{unit} {grid[-1]}, at sparsity {reached:.4g} instead of {config.sparsity:g}; a "
                f"longer ramp or more updates are accepted for dialect {settings.dialect}"
            )

    @classmethod
    def forecast(cls, outlook: Outlook) -> Iterator[Densities]:
        config, settings = outlook.config, outlook.settings
        dialect = DIALECTS[settings.dialect]
        begin, end, grid = settings.plan(config.epochs, outlook.batches)
        spread = outlook.together if settings.ranking == "global" else outlook.uniform
        for epoch, steps in enumerate(outlook.steps_taken()):
            reached = epoch if dialect.by_epoch else steps - (dialect.when == "before_step")
            level = 0.0
            if updates := [position for position in grid if position <= reached]:
                level = dialect.ramp(
                    updates[-1], begin, end, settings.initial_sparsity, config.sparsity
                )
            forward = spread(level)
            yield Densities(forward, {} if dialect.dense_gradient else forward)

    @classmethod
    def state_bytes(cls, config: RunConfig) -> tuple[int, ...]:
        settings = config.settings
        assert isinstance(settings, Settings)
        return STORED_BYTES if DIALECTS[settings.dialect].stored else (1,)

    def setup(self, context: Context) -> None:
        super().setup(context)
        begin, end, grid = self.settings.plan(context.config.epochs, context.batches_per_epoch)
        self.ramp = (begin, end)
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
        together = self.settings.ranking == "global"
        groups = [scores] if together else [{n: s} for n, s in scores.items()]
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
