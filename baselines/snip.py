"""SNIP: prunes once before training, by the change of the loss without each weight.

Lee, Ajanthan, Torr, ICLR 2019; namhoonlee/snip-public, snip/model.py and snip/prune.py.
"""

from __future__ import annotations

from pydantic import Field

from acdc.methods.contract import Context, Deviation, SparseMethod
from acdc.methods.settings import ScopedSettings
from acdc.sparsity.apply import apply_masks
from acdc.sparsity.selection import masks_at


class Settings(ScopedSettings):
    """How many images the gradient is taken on, and which layers stay dense."""

    images: int = Field(default=100, ge=2)
    """Images of the one mini-batch whose gradient ranks the weights; one has no statistics."""


class SNIP(SparseMethod[Settings]):
    """Keeps the weights with the largest |gradient * weight| of all layers together."""

    name = "snip"
    label = "SNIP"
    source = (
        "Lee, Ajanthan, Torr: SNIP: Single-shot Network Pruning based on Connection Sensitivity. "
        "ICLR 2019. Code: namhoonlee/snip-public."
    )
    deviations = (
        Deviation(
            original="ranks one set of initial weights and trains another, drawn again",
            ours="ranks and trains the network's own initial weights",
            why="every method of a comparison starts from the same weights, and the paper's "
            "Algorithm 1 has only one set",
        ),
        Deviation(
            original="ranks biases together with weights, and keeps round(N (1 - s)) of both",
            ours="ranks weights only, and prunes floor(N s) of them",
            why="no method here prunes biases, and all count alike",
        ),
        Deviation(
            original="takes the gradient with the initial statistics of batch normalisation",
            ours="takes it with the statistics of the mini-batch",
            why="training normalises with those",
        ),
    )

    def setup(self, context: Context) -> None:
        super().setup(context)
        (gradients,) = self.gradients(1, self.settings.images, training=True)
        scores = {name: gradients[name] * weight for name, weight in self.ranked.items()}
        self.masks = masks_at(scores, self.sparsity, magnitudes=True)
        apply_masks(self.weights, self.masks)
