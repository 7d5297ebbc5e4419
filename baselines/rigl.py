"""RigL: drop the smallest weights, grow those with the largest gradients.

Evci, Gale, Menick, Castro, Elsen, ICML 2020; google-research/rigl, rigl/sparse_optimizers_base.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acdc.methods.rewiring import (
    COSINE,
    DRAWS,
    FIXED_BATCHES,
    INTERVAL,
    LAST_LAYER,
    OUTPUTS,
    TIES,
    Rewiring,
    RewiringSettings,
)
from acdc.sparsity.flops import LayerCost, dense_flops, forward_flops
from acdc.sparsity.masks import Masks
from acdc.step import Step


class RigL(Rewiring[RewiringSettings]):
    """Trains sparse from the start; regularly moves connections to the largest gradients.

    An update replaces the optimizer's step of its batch and does not count as one.
    """

    name = "rigl"
    label = "RigL"
    source = (
        "Evci, Gale, Menick, Castro, Elsen: Rigging the Lottery: Making All Tickets Winners. "
        "ICML 2020. Code: google-research/rigl at d39fc7d."
    )
    deviations = (FIXED_BATCHES, INTERVAL, DRAWS, TIES, COSINE, LAST_LAYER, OUTPUTS)
    flops_formula = "(3 f_S dT + 2 f_S + f_D) / (dT + 1) (Evci et al. 2020, Appendix H)"

    def before_step(self, step: Step) -> bool:
        if not self.due():
            return super().before_step(step)
        self.stored.restore(self.weights)
        self.update(step)
        return False

    def needed_gradients(self) -> Masks:
        return {} if self.due() else super().needed_gradients()

    def growth(self, name: str, generator: torch.Generator) -> Tensor:
        # The loss is differentiated at the masked weights, with respect to all of them.
        gradient = self.ranked[name].grad
        assert gradient is not None
        return gradient.abs()

    def published_flops(self, costs: tuple[LayerCost, ...]) -> float:
        sparse = forward_flops(costs, self.mask_densities())
        return training_flops(sparse, dense_flops(costs), self.interval)


def training_flops(sparse: float, dense: float, interval: int) -> float:
    """Return the mean training FLOPs of a batch, given those of a sparse and a dense forward pass.

    One batch in ``interval`` + 1 is an update's, with a dense gradient and no step (Evci et al.
    2020, Appendix H, which leaves out that updates end).
    """
    return (3 * sparse * interval + 2 * sparse + dense) / (interval + 1)
