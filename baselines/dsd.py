"""DSD: dense, sparse, dense training; the dense network is the product.

Han et al., ICLR 2017. Its repository (songhan/DSD) holds models and no training code; this follows
the paper's description.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from acdc.messages import config_error
from acdc.methods.contract import Context, Deviation, Product, SparseMethod
from acdc.methods.optimizer import mask_slots
from acdc.methods.plan import Plan
from acdc.methods.settings import ScopedSettings, check_order
from acdc.sparsity.apply import apply_masks
from acdc.sparsity.masks import count_nonzeros
from acdc.sparsity.selection import magnitude_masks
from acdc.step import Step


class Settings(ScopedSettings):
    """When the sparse phase is, in fractions of training, and the last phase's learning rate."""

    sparse_begin: float = Field(default=0.5, gt=0, lt=1)
    """Where the sparse phase begins, as a fraction of training."""
    sparse_end: float = Field(default=0.75, gt=0, lt=1)
    """Where it ends and all weights are trained again, as a fraction of training."""
    final_lr_factor: float = Field(default=0.1, gt=0, le=1000)
    """Factor on the recipe's learning rate in the last dense phase."""

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        check_order(self, "sparse_begin", "sparse_end")
        return self

    def sparse_epochs(self, epochs: int) -> tuple[int, int]:
        """Return the first epoch of the sparse phase and the first after it."""
        return round(self.sparse_begin * epochs), round(self.sparse_end * epochs)


class DSD(SparseMethod[Settings]):
    """Trains dense, then only the largest weights of each layer, then all of them again.

    Pruned weights come back at zero. The model at the end of the sparse phase is kept too.
    """

    name = "dsd"
    label = "DSD"
    source = (
        "Han, Pool, Narang, Mao, Gong, Tang, Elsen, Vajda, Paluri, Tran, Catanzaro, Dally: DSD: "
        "Dense-Sparse-Dense Training for Deep Neural Networks. ICLR 2017. No released training "
        "code."
    )
    deviations = (
        Deviation(
            original="three trainings one after the other, the later ones on top of the usual",
            ours="three phases of one training, whose learning rate follows the recipe throughout",
            why="every method of a comparison sees the same number of batches",
        ),
        Deviation(
            original="not verified: the last phase has a tenth of the learning rate",
            ours="settings.final_lr_factor, 0.1 times the recipe's rate at that epoch",
            why="no training code was released",
        ),
        Deviation(
            original="not stated: momentum of the weights that come back",
            ours="set to zero, as the weights are; the other weights keep theirs",
            why="a weight that starts again should not move by gradients from before",
        ),
    )
    products = ("dense", "sparse")

    @classmethod
    def check(cls, plan: Plan[Settings]) -> None:
        super().check(plan)
        if plan.sparsity == 0:
            raise config_error("sparsity", 0, "leaves DSD nothing to prune", "above 0")
        begin, end = plan.settings.sparse_epochs(plan.epochs)
        if not 0 < begin < end < plan.epochs:
            raise config_error(
                "epochs", plan.epochs, "one of the three phases would vanish", "more epochs"
            )

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.begin, self.end = self.settings.sparse_epochs(self.plan.epochs)

    def epoch_start(self, step: Step) -> None:
        if step.epoch == self.begin:
            self.masks = magnitude_masks(self.ranked, self.sparsity, "uniform")
            apply_masks(self.weights, self.masks)
            self.events.add("prune", nonzeros=count_nonzeros(self.masks))
        elif step.epoch == self.end:
            mask_slots(self.optimizer, self.weights, self.masks)
            # The pruned weights are zero already; lifting the masks lets them learn from there.
            self.masks = {}
            self.events.add("restore")

    def learning_rate(self, step: Step, rate: float) -> float:
        """Return the recipe's rate, lowered in the last phase."""
        return rate * float(self.settings.final_lr_factor) if step.epoch >= self.end else rate

    def product(self, step: Step) -> Product | None:
        if self.masks:
            return "sparse"
        return "dense" if step.epoch >= self.end else None
