"""Top-KAST: the largest weights in the forward pass, a larger set in the backward pass.

Jayakumar, Pascanu, Rae, Osindero, Elsen, NeurIPS 2020. No code was released for it; this follows
the definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from acdc.frozen import added
from acdc.messages import config_error
from acdc.methods.contract import Context, Deviation, SparseMethod
from acdc.methods.optimizer import mask_slots
from acdc.methods.plan import Plan
from acdc.methods.settings import ScopedSettings
from acdc.sparsity.apply import mask_gradients
from acdc.sparsity.masks import Masks
from acdc.sparsity.selection import Scope, magnitude_masks
from acdc.step import Step

Exploration = Literal["l2", "l1"]


class Settings(ScopedSettings):
    """The two sets, how often they are refreshed, and how weights compete to be in them."""

    dense_layers: tuple[str, ...] = ("first", "last")
    """Layers that stay dense: names of weights, or first, last, depthwise, shortcut; the sparsity
    counts over the others."""
    backward_sparsity: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of weights without gradient; null: twice the forward density gets one."""
    distribution: Scope = "uniform"
    """Give every layer the same sparsity, or rank the weights of all layers together."""
    refresh_interval: int = Field(default=1, ge=1)
    """Steps between recomputations of the two sets."""
    exploration: Literal["l2", "l1", "none"] = "l2"
    """Penalty that pulls weights outside the forward set 1 / density times as strongly as those
    inside; none: plain weight decay on the backward set."""
    exploration_strength: float | None = added(None, ge=0)
    """Factor of the penalty; null: the recipe's weight decay, whose place it takes."""
    explore_until: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of the epochs after which the backward set is the forward set; null: never."""

    def resolved_backward_sparsity(self, sparsity: float) -> float:
        """Return the backward sparsity that goes with a forward sparsity."""
        if self.backward_sparsity is not None:
            return self.backward_sparsity
        # Rounded, so that 0.95 gives 0.9 and not the number below it, whose count is another.
        return max(0.0, round(1 - 2 * (1 - sparsity), 12))

    def explored(self, epochs: int) -> int:
        """Return the first epoch whose backward set is the forward set."""
        return epochs if self.explore_until is None else round(self.explore_until * epochs)


def exploration_penalty(
    weight: Tensor, forward: Tensor, backward: Tensor, density: float, exploration: Exploration
) -> Tensor:
    """Return the exploration penalty of one layer at strength 1.

    The sum of w^2 / 2 (l2) or |w| (l1) over the forward set, and of the same divided by the density
    over the rest of the backward set: newcomers have to beat a stronger pull to zero.
    """
    penalty = weight.square() / 2 if exploration == "l2" else weight.abs()
    return _scaled(penalty, forward, backward, density).sum()


def exploration_gradient(
    weight: Tensor, forward: Tensor, backward: Tensor, density: float, exploration: Exploration
) -> Tensor:
    """Return the gradient of ``exploration_penalty`` with respect to the weight."""
    gradient = weight if exploration == "l2" else weight.sign()
    return _scaled(gradient, forward, backward, density)


def _scaled(values: Tensor, forward: Tensor, backward: Tensor, density: float) -> Tensor:
    return torch.where(forward, values, values / density) * backward


class TopKAST(SparseMethod[Settings]):
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
            ours="L2, with a gradient proportional to the weight (exploration: l1 is the other)",
            why="the paper calls it an L2 penalty in words",
        ),
        Deviation(
            original="not stated: which layers stay dense",
            ours="the first and the last, unless told otherwise",
            why="it is how the paper's tables compare it",
        ),
    )
    flops_formula = "2 f_A + f_B, by the definition of the two sets"

    @classmethod
    def check(cls, plan: Plan[Settings]) -> None:
        super().check(plan)
        backward = plan.settings.resolved_backward_sparsity(plan.sparsity)
        if backward > plan.sparsity:
            raise config_error(
                "settings.backward_sparsity",
                backward,
                "above the forward sparsity",
                f"up to sparsity={plan.sparsity}",
            )

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.explored = self.settings.explored(self.plan.epochs)
        self.strength = 0.0
        for group in context.optimizer.param_groups:
            if group["name"] == "prunable":
                self.strength, group["weight_decay"] = group["weight_decay"], 0.0
        own = self.settings.exploration_strength
        self.penalty = self.strength if own is None else own
        self.backward: Masks = {}
        self._refresh(Step(0, 0, self.plan.batches_per_epoch))
        self.stored.park(self.weights, self.masks)

    def _refresh(self, step: Step) -> None:
        self.masks = self._select(self.sparsity)
        if step.epoch < self.explored:
            sparsity = self.settings.resolved_backward_sparsity(self.sparsity)
            self._confine(self._select(sparsity))
        else:
            self._confine(dict(self.masks))

    def _confine(self, backward: Masks) -> None:
        """Make this the backward set, with no momentum outside it."""
        self.backward = backward
        mask_slots(self.optimizer, self.weights, backward)

    def _select(self, sparsity: float) -> Masks:
        return magnitude_masks(self.ranked, sparsity, self.settings.distribution)

    def epoch_start(self, step: Step) -> None:
        if step.epoch == self.explored:
            self._confine(dict(self.masks))

    def before_step(self, step: Step) -> bool:
        mask_gradients(self.weights, self.backward)
        self.stored.restore(self.weights)
        with torch.no_grad():
            for name, weight in self.weights.items():
                assert weight.grad is not None
                weight.grad += self._pull(name, weight)
        return True

    def _pull(self, name: str, weight: Tensor) -> Tensor:
        """Return the gradient of the penalty on a stored weight."""
        if name in self.exempt:
            return self.strength * weight
        forward, backward = self.masks[name], self.backward[name]
        if self.settings.exploration == "none":
            return self.penalty * weight * backward
        return self.penalty * exploration_gradient(
            weight, forward, backward, 1 - self.sparsity, self.settings.exploration
        )

    def after_step(self, step: Step) -> None:
        # The model is made of the last weights: the last step is followed by a refresh too.
        due = (step.iteration + 1) % self.settings.refresh_interval == 0
        if due or step.iteration + 1 == self.plan.iterations:
            self._refresh(step)
        self.stored.park(self.weights, self.masks)

    def gradient_masks(self) -> Masks:
        return self.backward

    def needed_gradients(self) -> Masks:
        return self.backward

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"backward": self.backward}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.backward = dict(state["backward"])
