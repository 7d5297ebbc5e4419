"""GMP: gradual magnitude pruning along a cubic ramp.

Zhu and Gupta 2017, "To prune, or not to prune"; tensorflow/contrib/model_pruning as used by Gale,
Elsen and Hooker 2019 (threshold decay 0) and by RigL's baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from acdc.errors import ConfigError
from acdc.masks import count_nonzeros, global_magnitude_masks, layer_magnitude_masks
from acdc.method import (
    Context,
    Densities,
    Deviation,
    MethodSettings,
    Product,
    SparseMethod,
    StoredWeights,
    mask_gradients,
)
from acdc.schedules import Step, cubic_sparsity

if TYPE_CHECKING:
    from acdc.config import RunConfig


class Settings(MethodSettings):
    """The ramp, in fractions of training, and what is ranked."""

    begin: float = Field(default=0.25, ge=0, lt=1)
    """Where the ramp starts, as a fraction of training (paper, CIFAR-100: epoch 50 of 200)."""
    end: float = Field(default=0.75, gt=0, lt=1)
    """Where the target is reached, as a fraction of training (paper: epoch 150 of 200)."""
    updates: int = Field(default=50, ge=1)
    """Mask updates on the ramp, evenly spaced; the last one is at its end."""
    initial_sparsity: float = Field(default=0.0, ge=0, lt=1)
    """Sparsity at the start of the ramp."""
    distribution: Literal["uniform", "global"] = "uniform"
    """Prune every layer to the same sparsity, or rank the weights of all layers together."""

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if self.begin >= self.end:
            raise ConfigError(
                f"settings.begin: {self.begin} is not before settings.end {self.end}; "
                "a value below it is accepted"
            )
        return self

    def variant(self) -> str:
        return "global" if self.distribution == "global" else ""


class GMP(SparseMethod):
    """Prunes to a sparsity that rises as a cubic; pruned weights keep their value and may return.

    The stored weight is never zeroed: the forward pass uses mask * w, the loss gradient of a pruned
    weight is zero, but weight decay and momentum still act on it and the next ranking sees it.
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
            ours="keeps the exact count, ties to the lower index",
            why="the target sparsity is then reached exactly",
        ),
    )
    Settings = Settings

    @classmethod
    def check(cls, config: RunConfig) -> None:
        settings = config.settings
        assert isinstance(settings, Settings)
        if settings.initial_sparsity > config.sparsity:
            raise ConfigError(
                f"settings.initial_sparsity: {settings.initial_sparsity} is above the sparsity "
                f"{config.sparsity}; a value up to it is accepted"
            )

    def setup(self, context: Context) -> None:
        super().setup(context)
        first = min(round(self.settings.begin * context.iterations), context.iterations - 1)
        last = max(round(self.settings.end * context.iterations), first + 1)
        self.ramp = (first, last)
        count = min(self.settings.updates, last - first)
        self.update_at = {first + round(i * (last - first) / count) for i in range(count + 1)}
        self.stored = StoredWeights()
        self.used: list[dict[str, float]] = []
        self.current: dict[str, float] = {}
        self.changed = True

    def epoch_start(self, step: Step) -> None:
        # Masks change within an epoch: its cost is that of the mean density of its steps.
        self.used = []

    def before_step(self, step: Step) -> bool:
        if not self.used or self.changed:
            self.current = super().densities().forward
            self.changed = False
        self.used.append(self.current)
        mask_gradients(self.weights, self.masks)
        self.stored.restore(self.weights)
        return True

    def after_step(self, step: Step) -> None:
        # As in the original, the mask follows the optimizer's step, and counts steps taken.
        steps_taken = step.iteration + 1
        if steps_taken in self.update_at:
            self._update(steps_taken)
        self.stored.park(self.weights, self.masks)

    def _update(self, steps_taken: int) -> None:
        first, last = self.ramp
        progress = (steps_taken - first) / (last - first)
        sparsity = cubic_sparsity(progress, self.settings.initial_sparsity, self.sparsity)
        if self.settings.distribution == "global":
            self.masks = global_magnitude_masks(self.weights, sparsity)
        else:
            self.masks = layer_magnitude_masks(self.weights, dict.fromkeys(self.weights, sparsity))
        self.changed = True
        self.events.add(
            "prune", iteration=steps_taken, sparsity=sparsity, nonzeros=count_nonzeros(self.masks)
        )

    def densities(self) -> Densities:
        """Return the mean densities of the epoch's steps; gradients are as sparse."""
        if not self.used:
            return super().densities()
        mean = {
            name: sum(density[name] for density in self.used) / len(self.used)
            for name in self.weights
        }
        return Densities(forward=mean, gradient=mean)

    def product(self, step: Step) -> Product | None:
        return "sparse" if step.iteration + 1 >= self.ramp[1] else None

    def phase(self, step: Step) -> str:
        if not self.masks:
            return "dense"
        return "sparse" if self.product(step) else "ramp"

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.masks, "parked": self.stored.parked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.stored.parked = dict(state["parked"])
