"""One-shot magnitude pruning of the trained dense network, without any retraining.

The baseline that every sparse-training method has to beat.
"""

from __future__ import annotations

from acdc.methods.contract import Context, SparseMethod, Start
from acdc.methods.plan import Plan
from acdc.methods.settings import ScopedSettings
from acdc.sparsity.apply import apply_masks
from acdc.sparsity.selection import magnitude_masks
from baselines.dense import DENSE


class Settings(ScopedSettings):
    """Which layers are left alone."""


class OneShot(SparseMethod[Settings]):
    """Drops the smallest magnitudes of the last dense model, ranked over all layers together."""

    name = "one_shot"
    label = "One-shot"
    source = "Magnitude pruning after training, as in Han et al. 2015, without the retraining."

    @classmethod
    def starts_from(cls, plan: Plan[Settings]) -> Start | None:
        return Start(DENSE, product="dense", which="last", epoch=plan.epochs)

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.masks = magnitude_masks(self.ranked, self.sparsity, "global")
        apply_masks(self.weights, self.masks)
