"""SR-STE: N:M sparsity from scratch, by a straight-through gradient that pulls pruned weights down.

Zhou, Ma, Zhu, Liu, Zhang, Yuan, Sun, Li, ICLR 2021, "Learning N:M Fine-grained Structured Sparse
Neural Networks From Scratch"; NM-sparsity/NM-sparsity, devkit/sparse_ops/sparse_ops.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from acdc.methods.contract import Context, Deviation, SparseMethod
from acdc.methods.plan import Plan
from acdc.methods.settings import ScopedSettings
from acdc.sparsity.masks import Masks
from acdc.sparsity.patterns import Grouping, check_pattern, parse_pattern, pattern_masks
from acdc.step import Step


class Settings(ScopedSettings):
    """The pattern, and how strongly pruned weights are pulled to zero."""

    dense_layers: tuple[str, ...] = ("first",)
    """Layers that stay dense: names of weights, or first, last, depthwise, shortcut; by default
    the first, as images have too few channels for a group, and with grouping flat the last, as
    originally."""
    pattern: str = "2:4"
    """N:M: at most N weights of every M neighbours are not zero."""
    grouping: Grouping = "input"
    """Groups along the input channels only, or running on as in the released code (flat)."""
    strength: float = Field(default=2e-4, ge=0)
    """Decay of pruned weights, lambda_w (released code: 2e-4); 0 is the plain straight-through
    estimator."""

    @model_validator(mode="before")
    @classmethod
    def _dense_by_grouping(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("grouping") == "flat":
            return {"dense_layers": ("last",), **data}
        return data

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        parse_pattern(value)
        return value


def sparse_refined_gradient(
    gradient: Tensor, weight: Tensor, mask: Tensor, strength: float
) -> Tensor:
    """Return the gradient of the stored weight, g + strength (1 - mask) w.

    sparse_ops.py, the backward pass.

    Args:
        gradient: with respect to mask * w, dense.
        weight: stored weight, of the same shape.
        mask: true where the weight is in the forward pass.
        strength: lambda_w.
    """
    return gradient + strength * (weight * ~mask)


class SRSTE(SparseMethod[Settings]):
    """Uses the N largest of every M stored weights forward, and trains all of them.

    The gradient at the sparse point passes straight through to the stored weights; pruned weights
    decay, so that the mask settles.
    """

    name = "sr_ste"
    label = "SR-STE"
    source = (
        "Zhou, Ma, Zhu, Liu, Zhang, Yuan, Sun, Li: Learning N:M Fine-grained Structured Sparse "
        "Neural Networks From Scratch. ICLR 2021. Code: NM-sparsity/NM-sparsity."
    )
    deviations = (
        Deviation(
            original="groups run on into the next position and filter where the input channels are "
            "no multiple of M",
            ours="groups lie along the input channels, and layers with too few of them, such as "
            "the first, have to be dense (grouping: flat restores theirs)",
            why="sparse tensor cores need the groups along the input channels",
        ),
        Deviation(
            original="prunes the first convolution and leaves the classifier dense",
            ours="leaves the first convolution dense and prunes the classifier (grouping: flat, or "
            "dense_layers, restores theirs)",
            why="it follows from the groups; sparse tensor cores serve linear layers as well",
        ),
        Deviation(
            original="ties are left to the sort",
            ours="ties go to the earlier member of the group",
            why="masks are then the same on every device",
        ),
    )

    @classmethod
    def check(cls, plan: Plan[Settings]) -> None:
        super().check(plan)
        settings, exempt = plan.settings, plan.settings.exempt(plan.layers)
        check_pattern(plan.layers, exempt, settings.pattern, settings.grouping, plan.sparsity)

    def setup(self, context: Context) -> None:
        super().setup(context)
        self._hide()

    def before_step(self, step: Step) -> bool:
        self.stored.restore(self.weights)
        with torch.no_grad():
            for name, weight in self.ranked.items():
                assert weight.grad is not None
                weight.grad = sparse_refined_gradient(
                    weight.grad, weight, self.masks[name], self.settings.strength
                )
        return True

    def after_step(self, step: Step) -> None:
        self._hide()

    def _hide(self) -> None:
        """Select among the stored weights and park the others."""
        self.masks = pattern_masks(self.ranked, *parse_pattern(self.settings.pattern))
        self.stored.park(self.weights, self.masks)

    def gradient_masks(self) -> Masks:
        return {}
