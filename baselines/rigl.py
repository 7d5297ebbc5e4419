"""RigL: drop the smallest weights, grow those with the largest gradients.

Evci, Gale, Menick, Castro, Elsen, ICML 2020; google-research/rigl, rigl/sparse_optimizers_base.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from acdc.errors import ConfigError
from acdc.masks import erk_sparsities, random_masks, top_k_mask, uniform_sparsities
from acdc.method import (
    Context,
    Densities,
    Deviation,
    MethodSettings,
    SparseMethod,
    apply_masks,
    mask_gradients,
    momentum_buffers,
)
from acdc.schedules import Step, cosine_drop_fraction

if TYPE_CHECKING:
    from acdc.config import RunConfig


class Settings(MethodSettings):
    """How the zeros are spread over layers, and how often and how much the mask changes."""

    distribution: Literal["uniform", "erk"] = "uniform"
    """Uniform with the first layer dense, or Erdos-Renyi-Kernel over all layers."""
    update_interval: int = Field(default=100, ge=1)
    """Optimizer steps between mask updates (delta T)."""
    drop_fraction: float = Field(default=0.3, ge=0, lt=1)
    """Fraction of a layer's active weights dropped at the first update (alpha)."""
    end: float = Field(default=0.78125, gt=0, le=1)
    """Where updates end, as a fraction of training (paper: step 25,000 of 32,000)."""
    drop_noise: float = Field(default=1e-5, ge=0)
    """Standard deviation of the noise on the drop scores, as in the released code."""

    def variant(self) -> str:
        return "erk" if self.distribution == "erk" else ""


def updated_mask(
    weight: Tensor,
    mask: Tensor,
    gradient: Tensor,
    drop_fraction: float,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return one layer's mask after a RigL update, and which of its weights are newly grown.

    Keeps the count of active weights exactly. Just-dropped weights may be grown again; they are
    then not new. Ties go to the lowest index (sparse_optimizers_base.py, generic_mask_update).

    Args:
        weight: the stored weight.
        mask: which weights are active, of the same shape.
        gradient: with respect to the masked weight, dense, of the same shape.
        drop_fraction: of the active weights, in [0, 1).
        noise: added to the drop scores |mask * w|, which are clipped at zero.
    """
    active = int(mask.sum())
    # The original multiplies in single precision and truncates.
    dropped = int(np.float32(active) * np.float32(drop_fraction))
    score = (weight * mask).detach().abs()
    if noise is not None:
        score = (score + noise).clamp_min_(0)
    kept = top_k_mask(score, active - dropped)
    candidates = ~kept.reshape(-1)
    grown = torch.zeros_like(candidates)
    grown[candidates] = top_k_mask(gradient.detach().abs().reshape(-1)[candidates], dropped)
    updated = kept | grown.view_as(kept)
    return updated, updated & ~mask


class RigL(SparseMethod):
    """Trains sparse from the start; every so often moves some connections to larger gradients.

    An update takes the place of the optimizer's step for its batch.
    """

    name = "rigl"
    label = "RigL"
    source = (
        "Evci, Gale, Menick, Castro, Elsen: Rigging the Lottery: Making All Tickets Winners. "
        "ICML 2020. Code: google-research/rigl at d39fc7d."
    )
    deviations = (
        Deviation(
            original="inactive weights stay stored, decay and drift, and are zeroed when grown",
            ours="inactive weights and their gradients are zero",
            why="the forward pass is the same; only an update in which active weights of value "
            "zero tie with inactive ones can differ",
        ),
        Deviation(
            original="counts optimizer steps, so that batches spent on updates lengthen training",
            ours="trains for a fixed number of epochs, updates included",
            why="every method of a comparison sees the same number of batches",
        ),
        Deviation(
            original="noise on drop scores may make them negative",
            ours="noisy drop scores are clipped at zero",
            why="the selection works on non-negative scores; weights below the noise are anyway "
            "ranked at random",
        ),
    )
    Settings = Settings

    def setup(self, context: Context) -> None:
        super().setup(context)
        names = list(context.weights)
        shapes = {name: weight.shape for name, weight in context.weights.items()}
        if self.settings.distribution == "erk":
            sparsities = erk_sparsities(shapes, self.sparsity)
        else:
            sparsities = uniform_sparsities(names, self.sparsity, dense=names[:1])
        self.masks = {
            name: mask.to(context.weights[name].device)
            for name, mask in random_masks(shapes, sparsities, context.generator()).items()
        }
        apply_masks(self.weights, self.masks)
        self.end = round(self.settings.end * context.iterations)
        self.steps_taken = 0
        self.last_update = -self.settings.update_interval

    @classmethod
    def check(cls, config: RunConfig) -> None:
        if config.sparsity == 0:
            raise ConfigError(
                "sparsity: 0 leaves RigL nothing to move; a value above 0 is accepted"
            )

    def before_step(self, step: Step) -> bool:
        due = self.last_update + self.settings.update_interval <= self.steps_taken <= self.end
        if not due:
            mask_gradients(self.weights, self.masks)
            self.steps_taken += 1
            return True
        self._update(step)
        self.last_update = self.steps_taken
        return False

    def _update(self, step: Step) -> None:
        fraction = cosine_drop_fraction(self.steps_taken, self.settings.drop_fraction, self.end)
        generator = self.context.generator(step.iteration)
        buffers = momentum_buffers(self.context.optimizer, self.weights)
        changed = 0
        for name, weight in self.weights.items():
            noise = None
            if self.settings.drop_noise:
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                noise *= self.settings.drop_noise
            assert weight.grad is not None
            mask, new = updated_mask(weight, self.masks[name], weight.grad, fraction, noise)
            changed += int(new.sum())
            self.masks[name] = mask
            with torch.no_grad():
                weight.masked_fill_(new, 0)
                if name in buffers:
                    buffers[name].masked_fill_(new, 0)
        self.events.add("update", iteration=step.iteration, drop_fraction=fraction, grown=changed)

    def densities(self) -> Densities:
        """Count one dense gradient in every ``update_interval`` + 1 batches (RigL, Appendix H)."""
        forward = super().densities().forward
        interval = self.settings.update_interval
        gradient = {name: (interval * d + 1) / (interval + 1) for name, d in forward.items()}
        return Densities(forward, gradient)

    def state_dict(self) -> dict[str, Any]:
        return {
            "masks": self.masks,
            "steps_taken": self.steps_taken,
            "last_update": self.last_update,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.steps_taken = state["steps_taken"]
        self.last_update = state["last_update"]
