"""Static: a random sparse network whose masks never change.

The baseline of that name in Evci, Gale, Menick, Castro, Elsen, ICML 2020; training_method scratch
of google-research/rigl, rigl/imagenet_resnet/imagenet_train_eval.py (its static is another: that
drops and zeroes weak weights at times).
"""

from __future__ import annotations

from acdc.methods.contract import Context, Deviation
from acdc.methods.rewiring import LAST_LAYER, OUTPUTS, SparseStart, SparseStartSettings
from acdc.sparsity.apply import apply_masks


class Static(SparseStart[SparseStartSettings]):
    """Draws random masks once and trains the weights inside them."""

    name = "static"
    label = "Static"
    source = (
        "Evci, Gale, Menick, Castro, Elsen: Rigging the Lottery: Making All Tickets Winners. "
        "ICML 2020, baseline Static. Code: google-research/rigl at d39fc7d."
    )
    deviations = (
        Deviation(
            original="weights outside the masks stay stored and decay",
            ours="weights outside the masks are zero",
            why="they never come into the forward pass",
        ),
        LAST_LAYER,
        OUTPUTS,
    )

    def setup(self, context: Context) -> None:
        super().setup(context)
        apply_masks(self.weights, self.masks)
