"""SNFS: grows the connections with the largest running mean of the gradient.

Dettmers and Zettlemoyer 2019, "Sparse networks from scratch", as restated for RigL's comparison
(google-research/rigl, rigl/sparse_optimizers.py, SparseMomentumOptimizer).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from acdc.methods.contract import Context, Deviation
from acdc.methods.rewiring import (
    COSINE,
    DRAWS,
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


class Settings(RewiringSettings):
    """Those of RigL, and the memory of the running mean."""

    gradient_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Weight of the past in the exponential moving average of the dense gradient."""


class SNFS(Rewiring[Settings]):
    """After the optimizer's step, moves some connections to larger mean gradients."""

    name = "snfs"
    label = "SNFS"
    source = (
        "Dettmers, Zettlemoyer: Sparse Networks from Scratch: Faster Training without Losing "
        "Performance. 2019. Code: SparseMomentumOptimizer of google-research/rigl at d39fc7d."
    )
    deviations = (
        Deviation(
            original="Dettmers and Zettlemoyer move weights between layers by their momentum, and "
            "rank by the optimizer's own",
            ours="every layer keeps its number of weights, and the mean is a separate one, as in "
            "RigL's restatement",
            why="it is the variant that RigL's and the paper's tables compare with",
        ),
        INTERVAL,
        DRAWS,
        TIES,
        COSINE,
        LAST_LAYER,
        OUTPUTS,
    )
    flops_formula = "2 f_S + f_D (Evci et al. 2020, Appendix H)"

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.means = {name: torch.zeros_like(weight) for name, weight in self.ranked.items()}

    def before_step(self, step: Step) -> bool:
        for name, weight in self.ranked.items():
            assert weight.grad is not None
            self.means[name].lerp_(weight.grad, 1 - self.settings.gradient_momentum)
        return super().before_step(step)

    def after_step(self, step: Step) -> None:
        if self.due():
            self.update(step)
        super().after_step(step)

    def growth(self, name: str, generator: torch.Generator) -> Tensor:
        return self.means[name].abs()

    def gradient_masks(self) -> Masks:
        """Return none: the running mean needs the gradient of every weight in every step."""
        return {}

    def published_flops(self, costs: tuple[LayerCost, ...]) -> float:
        return 2 * forward_flops(costs, self.mask_densities()) + dense_flops(costs)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"means": self.means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.means = dict(state["means"])
