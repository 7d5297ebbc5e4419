"""STR: one soft threshold per layer, learned by the optimizer like any parameter.

Kusupati, Ramanujan, Somani, Wortsman, Jain, Kakade, Farhadi, ICML 2020; RAIVNLab/STR,
utils/conv_type.py and main.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from acdc.methods.contract import Context, Deviation, Product, SparseMethod
from acdc.methods.settings import ScopedSettings
from acdc.step import Step

GROUP = "thresholds"


class Settings(ScopedSettings):
    """Where the thresholds start, and their weight decay; together they decide the sparsity."""

    s_init: float = Field(default=-3200.0, ge=-1e30, le=1e30)
    """Initial s of every layer, whose threshold is sigmoid(s) (paper: -3200 for ResNet50 at about
    90 %, -12800 for MobileNetV1)."""
    st_decay: float | None = Field(default=None, ge=0)
    """Weight decay of s; null: the recipe's, as in the paper."""


def soft_threshold(weight: Tensor, s: Tensor) -> Tensor:
    """Return the effective weight sign(w) relu(|w| - sigmoid(s)).

    conv_type.py, sparseFunction.

    Args:
        weight: stored weight of a layer.
        s: scalar.
    """
    return weight.sign() * (weight.abs() - s.sigmoid()).relu()


def soft_threshold_gradients(weight: Tensor, s: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to the stored weight and to s.

    The weight's is the effective weight's where that is not zero, and s gets
    -sigmoid'(s) sum(sign(w) gradient) over the same places.

    Args:
        weight: stored weight of a layer.
        s: scalar.
        gradient: with respect to the effective weight.
    """
    threshold = s.sigmoid()
    of_weight = gradient * (weight.abs() > threshold)
    of_s = -threshold * (1 - threshold) * (weight.sign() * of_weight).sum()
    return of_weight, of_s


class STR(SparseMethod[Settings]):
    """Trains weights and thresholds; a weight is zero while its magnitude is below the threshold.

    The sparsity is an outcome, not a target: while sigmoid'(s) underflows, s depends only on its
    initial value, weight decay, the learning rates and the number of steps, which have to be chosen
    for it. A run's ``sparsity`` is the expected outcome, which none is refused for missing.
    """

    name = "str"
    label = "STR"
    source = (
        "Kusupati et al.: Soft Threshold Weight Reparameterization for Learnable Sparsity. "
        "ICML 2020. Code: RAIVNLab/STR at cc74d38."
    )
    deviations = (
        Deviation(
            original="the classifier is a 1x1 convolution without bias",
            ours="a linear layer with bias, thresholded all the same",
            why="every method of a comparison trains the same network",
        ),
    )
    sparsity_tolerance = 1.0

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.thresholds = {
            name: nn.Parameter(weight.new_full((), self.settings.s_init))
            for name, weight in self.ranked.items()
        }
        group: dict[str, Any] = {"name": GROUP, "params": list(self.thresholds.values())}
        if self.settings.st_decay is not None:
            group["weight_decay"] = self.settings.st_decay
        context.optimizer.add_param_group(group)
        self.dense: dict[str, Tensor] = {}
        """Stored weights; the parameters hold the thresholded ones."""
        self._hide()

    def before_step(self, step: Step) -> bool:
        with torch.no_grad():
            for name, weight in self.ranked.items():
                assert weight.grad is not None
                s = self.thresholds[name]
                weight.copy_(self.dense[name])
                weight.grad, s.grad = soft_threshold_gradients(weight, s, weight.grad)
        return True

    def after_step(self, step: Step) -> None:
        self._hide()

    def _hide(self) -> None:
        """Put the effective weights into the parameters."""
        with torch.no_grad():
            for name, weight in self.ranked.items():
                self.dense[name] = weight.detach().clone()
                weight.copy_(soft_threshold(weight, self.thresholds[name]))
                self.masks[name] = weight != 0

    def product(self, step: Step) -> Product | None:
        # Earlier epochs are denser.
        return "sparse" if step.epoch + 1 == self.plan.epochs else None

    def phase(self, step: Step) -> str:
        if all(bool(mask.all()) for mask in self.masks.values()):
            return "dense"
        return "sparse" if self.product(step) else "ramp"

    def state_dict(self) -> dict[str, Any]:
        thresholds = {name: s.detach() for name, s in self.thresholds.items()}
        return super().state_dict() | {"dense": self.dense, "thresholds": thresholds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.dense = dict(state["dense"])
        with torch.no_grad():
            for name, s in self.thresholds.items():
                s.copy_(state["thresholds"][name])
