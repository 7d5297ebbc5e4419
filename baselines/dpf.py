"""DPF: dynamic pruning with feedback; gradients at the pruned weights train the dense ones.

Lin, Stich, Barba, Dmitriev, Jaggi, ICLR 2020, "Dynamic Model Pruning with Feedback".
No code of the authors was within reach.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from acdc.methods.contract import Context, Deviation, Product, SparseMethod
from acdc.methods.settings import ScopedSettings, check_order
from acdc.sparsity.masks import Masks, count_nonzeros
from acdc.sparsity.selection import Scope, magnitude_masks
from acdc.step import Step
from baselines._ramps import cubic_ramp, ramp_ends


class Settings(ScopedSettings):
    """How often the mask is recomputed, the ramp in fractions of training, and what is ranked."""

    update_interval: float = Field(default=0.0001364, gt=0, le=1)
    """Steps between recomputations of the masks, on the ramp and after it, at least one, as a
    fraction of all (paper: 16 steps; 300 epochs of CIFAR-10 in batches of 128 are 117,300)."""
    begin: float = Field(default=0.0, ge=0, lt=1)
    """Where the ramp starts, as a fraction of training."""
    end: float = Field(default=0.5, gt=0, lt=1)
    """Where the target is reached, as a fraction of training."""
    distribution: Scope = "global"
    """Rank the weights of all layers together, or prune every layer to the same sparsity."""

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        check_order(self)
        return self


class DPF(SparseMethod[Settings]):
    """Trains dense weights by the gradients of the pruned network, whose mask follows them.

    All stored weights receive the gradient at mask * w, so pruned weights keep learning and may
    return; the model is mask * w.
    """

    name = "dpf"
    label = "DPF"
    source = (
        "Lin, Stich, Barba, Dmitriev, Jaggi: Dynamic Model Pruning with Feedback. ICLR 2020. "
        "No code of the authors within reach."
    )
    deviations = (
        Deviation(
            original="not verified: when the ramp of the sparsity begins and ends",
            ours="from the start of training to half of it, changing at each update of the mask "
            "(settings.begin, settings.end)",
            why="the schedule is that of Zhu and Gupta, and its ends a matter of the recipe",
        ),
        Deviation(
            original="not verified: whether weights are ranked over all layers, and which are left "
            "out",
            ours="over all layers together, none left out (settings.distribution, "
            "settings.dense_layers)",
            why="as for AC/DC, so that the two can be compared",
        ),
        Deviation(
            original="recomputes the masks every 16 steps, however many there are",
            ours="every 7,300th part of training, at least a step apart",
            why="a run of any length then recomputes them as often, or after every step",
        ),
        Deviation(
            original="recomputes the masks at multiples of the interval only",
            ours="also where the ramp ends; from there to the end of training at multiples",
            why="the target is then reached where the settings say, however long the interval",
        ),
    )

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.begin, self.end = ramp_ends(self.settings, self.plan.iterations)
        self.interval = self.plan.steps(self.settings.update_interval)
        self._update(0)
        self.stored.park(self.weights, self.masks)

    def before_step(self, step: Step) -> bool:
        # All stored weights receive the gradient that was taken at the pruned ones.
        self.stored.restore(self.weights)
        return True

    def after_step(self, step: Step) -> None:
        steps_taken = step.iteration + 1
        if steps_taken % self.interval == 0 or steps_taken == self.end:
            self._update(steps_taken)
        self.stored.park(self.weights, self.masks)

    def _update(self, steps_taken: int) -> None:
        sparsity = cubic_ramp(steps_taken, self.begin, self.end, 0.0, self.sparsity)
        self.masks = magnitude_masks(self.ranked, sparsity, self.settings.distribution)
        if steps_taken <= self.end:
            self.events.add(
                "prune",
                iteration=steps_taken,
                sparsity=sparsity,
                nonzeros=count_nonzeros(self.masks),
            )

    def gradient_masks(self) -> Masks:
        return {}

    def product(self, step: Step) -> Product | None:
        return "sparse" if step.iteration + 1 >= self.end else None
