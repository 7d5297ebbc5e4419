"""One-shot magnitude pruning of the trained dense network, without any retraining.

The floor that every sparse-training method has to clear: what remains of a dense network when its
smallest weights are dropped at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from acdc.methods.contract import Context, ScopedSettings, SparseMethod, Start, apply_masks
from acdc.sparsity.selection import global_magnitude_masks

if TYPE_CHECKING:
    from acdc.config.run import RunConfig


class Settings(ScopedSettings):
    """Which layers are left alone."""


class OneShot(SparseMethod):
    """Drops the smallest magnitudes of the last dense model, ranked over all layers together."""

    name = "one_shot"
    label = "One-shot"
    source = "Magnitude pruning after training, as in Han et al. 2015, without the retraining."
    Settings = Settings

    @classmethod
    def starts_from(cls, config: RunConfig) -> Start | None:
        dense = type(config).model_validate(
            config.model_dump() | {"method": "dense", "settings": {}, "sparsity": 0.0}
        )
        return Start(dense, product="dense", which="last", epoch=config.epochs)

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.masks = global_magnitude_masks(self.ranked, self.sparsity)
        apply_masks(self.weights, self.masks)
