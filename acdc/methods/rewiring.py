"""Sparse from the start: random masks, and updates that move their connections.

RigL, SET and SNFS differ in when they update and in how they score candidates for growth. Evci,
Gale, Menick, Castro, Elsen, ICML 2020; google-research/rigl, rigl/sparse_optimizers_base.py and
rigl/sparse_utils.py.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from acdc.messages import config_error
from acdc.methods.contract import Context, Deviation, SparseMethod
from acdc.methods.optimizer import optimizer_slots
from acdc.methods.phases import cosine_drop_fraction
from acdc.methods.plan import Plan
from acdc.methods.settings import ScopedSettings, check_order
from acdc.sparsity.apply import mask_gradients
from acdc.sparsity.distributions import Distribution, layer_sparsities
from acdc.sparsity.flops import LayerCost, step_flops
from acdc.sparsity.masks import Masks, random_masks
from acdc.sparsity.selection import top_k_mask
from acdc.step import Step


class SparseStartSettings(ScopedSettings):
    """How the zeros are spread over the layers."""

    distribution: Distribution = "uniform"
    """The same sparsity in every layer, Erdos-Renyi-Kernel (erk) or Erdos-Renyi (er)."""
    dense_layers: tuple[str, ...] = ("first",)
    """Layers that stay dense: names of weights, or first, last, depthwise, shortcut; by default
    the first with uniform and none with erk and er, as in RigL."""

    @model_validator(mode="before")
    @classmethod
    def _dense_by_distribution(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("distribution", "uniform") != "uniform":
            return {"dense_layers": (), **data}
        return data

    def variant(self) -> str:
        uniform = self.distribution == "uniform"
        parts: list[str] = [] if uniform else [self.distribution]
        if self.dense_layers != (("first",) if uniform else ()):
            parts += self.dense_layers or ["all"]
        others = self.named_changes("distribution", "dense_layers")
        return "-".join(filter(None, [*parts, others]))


class RewiringSettings(SparseStartSettings):
    """How the zeros are spread over the layers, and how often and how much the masks change."""

    update_interval: float = Field(default=100 / 32_000, gt=0, le=1)
    """Optimizer steps between mask updates (delta T), at least five, as a fraction of all batches
    (paper: 100 of 32,000 steps)."""
    drop_fraction: float = Field(default=0.3, ge=0, lt=1)
    """Fraction of a layer's active weights dropped at the first update (alpha)."""
    anneal: Literal["cosine", "constant"] = "cosine"
    """How the drop fraction changes until updates end: to zero along a half cosine, or not."""
    begin: float = Field(default=0.0, ge=0, lt=1)
    """Where updates begin, as a fraction of training."""
    end: float = Field(default=0.78125, gt=0, le=1)
    """Where updates end, as a fraction of training (paper: step 25,000 of 32,000)."""
    drop_noise: float = Field(default=1e-5, ge=0)
    """Standard deviation of the noise on the drop scores, as in the released code."""

    @model_validator(mode="after")
    def _ordered(self) -> RewiringSettings:
        check_order(self)
        return self


FIXED_BATCHES = Deviation(
    original="counts optimizer steps; where updates take their place, training sees more batches",
    ours="trains for a fixed number of epochs, updates included",
    why="every method of a comparison sees the same number of batches",
)
INTERVAL = Deviation(
    original="updates the masks every 100 steps, however many there are",
    ours="every 320th part of training, at least five steps apart; runs that are 2 and 5 times as "
    "long have 2 and 5 times as many updates, as in the original",
    why="a shorter run than the original's 32,000 steps then has as many updates as it, 250; with "
    "fewer steps between them RigL, whose updates take the place of one, loses accuracy",
)
DRAWS = Deviation(
    original="seeds its noise and random growth with Python's hash of a name, which differs from "
    "process to process",
    ours="draws them from the run's seed, the batch and the layer, on the CPU",
    why="a run can then be repeated and resumed",
)
TIES = Deviation(
    original="breaks ties by the index in its layout, (height, width, inputs, outputs)",
    ours="breaks ties by the index in PyTorch's, (outputs, inputs, height, width)",
    why="neither order means anything, and with the noise there are hardly any ties",
)
COSINE = Deviation(
    original="computes the cosine of the drop fraction in single precision, where it can be one "
    "unit low, so that an update drops one weight fewer: of 16, int(16 x 0.37499997) = 5",
    ours="rounds the cosine correctly: of 16, int(16 x 0.375) = 6",
    why="the number is then the same on every machine",
)
LAST_LAYER = Deviation(
    original="derives the Erdos-Renyi-Kernel sparsities of MobileNetV1 with a 1x1 convolution as "
    "its last layer, whose kernel adds 2 to 1,024 inputs and 1,000 outputs",
    ours="has a linear layer there",
    why="it is the layer that is trained; its density differs by a thousandth of itself",
)
OUTPUTS = Deviation(
    original="counts one FLOP more for every output of a layer (bias and ReLU, less the first "
    "addition), and positions beyond the border where images are padded already",
    ours="counts two FLOPs for every multiply-add",
    why="all methods are counted alike; the original's printed ratios are higher by 0.001 for "
    "ResNet50 and by 0.003 for MobileNetV1, at 90 % and Erdos-Renyi-Kernel",
)


SparseStartT = TypeVar("SparseStartT", bound=SparseStartSettings)
RewiringT = TypeVar("RewiringT", bound=RewiringSettings)


class SparseStart(SparseMethod[SparseStartT]):
    """Starts from random masks with the layer sparsities of a distribution."""

    flops_formula = "3 f_S (Evci et al. 2020, Appendix H)"

    @classmethod
    def check(cls, plan: Plan[SparseStartT]) -> None:
        super().check(plan)
        _sparsities(plan)

    def setup(self, context: Context) -> None:
        super().setup(context)
        shapes = {name: weight.shape for name, weight in self.ranked.items()}
        masks = random_masks(shapes, _sparsities(self.plan), self.plan.generator())
        self.masks = {
            name: torch.empty_like(weight, dtype=torch.bool).copy_(masks[name])
            for name, weight in self.ranked.items()
        }

    def mask_densities(self) -> dict[str, float]:
        """Return the fraction of each layer's weights that the masks keep."""
        return {name: kept / self.weights[name].numel() for name, kept in self.kept().items()}

    def published_flops(self, costs: tuple[LayerCost, ...]) -> float:
        densities = self.mask_densities()
        return step_flops(costs, densities, densities)


def _sparsities(plan: Plan[SparseStartT]) -> dict[str, float]:
    exempt = plan.settings.exempt(plan.layers)
    return layer_sparsities(plan.layers, plan.settings.distribution, plan.sparsity, exempt)


class Rewiring(SparseStart[RewiringT], abc.ABC):
    """Moves connections: drops active weights and grows inactive ones.

    The stored weights are dense, as in the original: those outside the masks get no gradient of the
    loss, but weight decay and momentum act on them.
    """

    least_interval: ClassVar[int] = 5
    """Steps between updates in short runs."""

    @classmethod
    def check(cls, plan: Plan[RewiringT]) -> None:
        super().check(plan)
        if plan.sparsity == 0:
            raise config_error("sparsity", 0, f"{cls.label} has nothing to move", "above 0")

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.begin = round(self.settings.begin * self.plan.iterations)
        self.end = round(self.settings.end * self.plan.iterations)
        steps = self.plan.steps(self.settings.update_interval)
        self.interval = max(steps, self.least_interval)
        self.steps_taken = 0
        self.last_update = -self.interval
        self.stored.park(self.weights, self.masks)

    def before_step(self, step: Step) -> bool:
        mask_gradients(self.weights, self.masks)
        self.stored.restore(self.weights)
        self.steps_taken += 1
        return True

    def needed_gradients(self) -> Masks:
        return self.gradient_masks()

    def after_step(self, step: Step) -> None:
        self.stored.park(self.weights, self.masks)

    def due(self) -> bool:
        """Return whether the masks are due for an update."""
        waited = self.steps_taken - self.last_update >= self.interval
        return self.begin <= self.steps_taken <= self.end and waited

    def drop_fraction(self) -> float:
        """Return the fraction of active weights that an update drops now."""
        if self.settings.anneal == "constant":
            return float(self.settings.drop_fraction)
        return cosine_drop_fraction(
            self.steps_taken, self.settings.drop_fraction, self.end - self.begin
        )

    @abc.abstractmethod
    def growth(self, name: str, generator: torch.Generator) -> Tensor:
        """Return the non-negative scores of a layer's weights as candidates for growth."""

    def update(self, step: Step) -> None:
        """Rewire every layer; the parameters hold the stored weights."""
        fraction = self.drop_fraction()
        grown = 0
        for index, (name, weight) in enumerate(self.ranked.items()):
            generator = self.plan.generator(step.iteration, index)
            noise = None
            if self.settings.drop_noise:
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                noise *= self.settings.drop_noise
            self.masks[name], new = rewire(
                weight.detach(),
                self.masks[name],
                self.growth(name, generator),
                optimizer_slots(self.optimizer, weight),
                fraction,
                noise,
            )
            grown += int(new.sum())
        self.last_update = self.steps_taken
        self.events.add("update", iteration=step.iteration, drop_fraction=fraction, grown=grown)

    def state_dict(self) -> dict[str, Any]:
        progress = {"steps_taken": self.steps_taken, "last_update": self.last_update}
        return super().state_dict() | progress

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.steps_taken = state["steps_taken"]
        self.last_update = state["last_update"]


def rewire(
    weight: Tensor,
    mask: Tensor,
    growth: Tensor,
    slots: Sequence[Tensor],
    drop_fraction: float,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return one layer's mask after an update, and which of its weights are new.

    Keeps the largest |mask * w| of the whole layer, then grows the best of all others, as many as
    were dropped. A weight is new if it was grown and not active before; new weights and their slots
    become zero, in place. A just-dropped weight that is grown again keeps both, and so does an
    inactive one that is kept because active weights are zero too. The count of active weights does
    not change; ties go to the lowest index (sparse_optimizers_base.py, generic_mask_update).

    Args:
        weight: the stored weight, also where it is not active.
        mask: which weights are active, of the same shape, as are all others.
        growth: scores of the candidates, none negative.
        slots: the optimizer's state of the weight.
        drop_fraction: of the active weights, in [0, 1).
        noise: added to the drop scores.
    """
    active = int(mask.sum())
    # The original multiplies in single precision and truncates.
    dropped = int(np.float32(active) * np.float32(drop_fraction))
    score = (weight * mask).abs_()
    if noise is not None:
        score += noise
    kept = top_k_mask(score, active - dropped)
    grown = top_k_mask(growth.masked_fill(kept, -1), dropped)
    new = grown & ~mask
    for tensor in (weight, *slots):
        tensor.masked_fill_(new, 0)
    # In place, which keeps the weight's memory layout.
    return kept.logical_or_(grown), new
