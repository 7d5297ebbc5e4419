"""Top-KAST: the largest weights in the forward pass, a larger set in the backward pass.

Jayakumar, Pascanu, Rae, Osindero, Elsen, NeurIPS 2020. No code was released for it; this follows
the definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from acdc.errors import ConfigError
from acdc.masks import Masks, layer_magnitude_masks, uniform_sparsities
from acdc.method import (
    Context,
    Densities,
    Deviation,
    MethodSettings,
    SparseMethod,
    StoredWeights,
    mask_gradients,
    momentum_buffers,
)
from acdc.schedules import Step

if TYPE_CHECKING:
    from acdc.config import RunConfig


class Settings(MethodSettings):
    """The backward set, how often the sets are refreshed, and which layers stay dense."""

    backward_sparsity: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of weights without gradient; null: twice the forward density gets one."""
    refresh_interval: int = Field(default=1, ge=1)
    """Steps between recomputations of the two sets."""
    dense_layers: Literal["none", "first_last"] = "first_last"
    """Whether the first and the last layer stay dense."""
    exploration: bool = True
    """Penalise weights of the backward set outside the forward set by 1 / density more."""

    def variant(self) -> str:
        return "" if self.backward_sparsity is None else f"b{100 * self.backward_sparsity:g}"

    def resolved_backward_sparsity(self, sparsity: float) -> float:
        """Return the backward sparsity that goes with a forward sparsity."""
        if self.backward_sparsity is not None:
            return self.backward_sparsity
        # Rounded, so that 0.95 gives 0.9 and not the number below it, whose count is another.
        return max(0.0, round(1 - 2 * (1 - sparsity), 12))


def regulariser_gradient(
    weight: Tensor, forward: Tensor, backward: Tensor, strength: float, density: float
) -> Tensor:
    """Return the gradient of the exploration regulariser, read as an L2 penalty.

    strength * w on the forward set, strength * w / density on the rest of the backward set, and 0
    elsewhere: newcomers have to beat a stronger pull to zero.
    """
    scale = forward * strength + (backward & ~forward) * (strength / density)
    return scale * weight


class TopKAST(SparseMethod):
    """Uses the top D of each layer forward, and updates the top D + M at that sparse point."""

    name = "top_kast"
    label = "Top-KAST"
    source = (
        "Jayakumar, Pascanu, Rae, Osindero, Elsen: Top-KAST: Top-K Always Sparse Training. "
        "NeurIPS 2020. No released code."
    )
    deviations = (
        Deviation(
            original="not stated: momentum outside the backward set (the paper used none)",
            ours="the momentum of a weight that leaves the backward set is set to zero",
            why="weights outside the set must not move",
        ),
        Deviation(
            original="not stated: how ordinary weight decay combines with the regulariser",
            ours="the regulariser replaces weight decay on prunable weights, with its strength",
            why="on the forward set the two are then the same",
        ),
        Deviation(
            original="the regulariser's exponent is ambiguous",
            ours="L2: gradient proportional to the weight",
            why="the paper calls it an L2 penalty in words",
        ),
    )
    Settings = Settings

    @classmethod
    def check(cls, config: RunConfig) -> None:
        settings = config.settings
        assert isinstance(settings, Settings)
        backward = settings.resolved_backward_sparsity(config.sparsity)
        if backward > config.sparsity:
            raise ConfigError(
                f"settings.backward_sparsity: {backward} is above the forward sparsity "
                f"{config.sparsity}; a value up to it is accepted"
            )

    def setup(self, context: Context) -> None:
        super().setup(context)
        names = list(context.weights)
        dense = {names[0], names[-1]} if self.settings.dense_layers == "first_last" else set()
        self.sparse_names = [name for name in names if name not in dense]
        self.backward_sparsity = self.settings.resolved_backward_sparsity(self.sparsity)
        self.strength = context.config.recipe.weight_decay
        for group in context.optimizer.param_groups:
            if group["name"] == "prunable":
                group["weight_decay"] = 0.0
        self.stored = StoredWeights()
        self.backward: Masks = {}
        self._refresh()
        self.stored.park(self.weights, self.masks)

    def _refresh(self) -> None:
        weights = {name: self.weights[name] for name in self.sparse_names}
        names = self.sparse_names
        self.masks = layer_magnitude_masks(weights, uniform_sparsities(names, self.sparsity))
        self.backward = layer_magnitude_masks(
            weights, uniform_sparsities(names, self.backward_sparsity)
        )
        buffers = momentum_buffers(self.context.optimizer, weights)
        if buffers:
            masks = [self.backward[name] for name in buffers]
            torch._foreach_mul_(list(buffers.values()), masks)

    def before_step(self, step: Step) -> bool:
        mask_gradients(self.weights, self.backward)
        self.stored.restore(self.weights)
        with torch.no_grad():
            for name, weight in self.weights.items():
                assert weight.grad is not None
                if name in self.masks and self.settings.exploration:
                    weight.grad += regulariser_gradient(
                        weight,
                        self.masks[name],
                        self.backward[name],
                        self.strength,
                        1 - self.sparsity,
                    )
                elif name in self.masks:
                    weight.grad += self.strength * weight * self.backward[name]
                else:
                    weight.grad += self.strength * weight
        return True

    def after_step(self, step: Step) -> None:
        if (step.iteration + 1) % self.settings.refresh_interval == 0:
            self._refresh()
        self.stored.park(self.weights, self.masks)

    def densities(self) -> Densities:
        forward = super().densities().forward
        gradient = {
            name: float(self.backward[name].float().mean()) if name in self.backward else 1.0
            for name in forward
        }
        return Densities(forward, gradient)

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.masks, "backward": self.backward, "parked": self.stored.parked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.backward = dict(state["backward"])
        self.stored.parked = dict(state["parked"])
