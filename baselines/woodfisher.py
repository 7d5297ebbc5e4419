"""WoodFisher: prunes the weights that raise the loss least, by blocks of the inverse Fisher matrix.

Singh and Alistarh, NeurIPS 2020; IST-DASLab/WoodFisher, pruners/woodfisherblock.py and
policies/pruners.py. Gradual pruning of a trained dense network, with fine-tuning in between.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from acdc.messages import config_error
from acdc.methods.contract import Context, Deviation, Product, SparseMethod, Start
from acdc.methods.plan import Plan
from acdc.methods.settings import ScopedSettings, check_order
from acdc.sparsity.apply import apply_masks
from acdc.sparsity.masks import count_nonzeros
from acdc.sparsity.released import strictly_above_masks
from acdc.sparsity.selection import masks_at
from acdc.step import Step
from baselines._ramps import check_initial_sparsity, cubic_ramp, even_updates, updates_since_begin
from baselines.dense import DENSE


class Settings(ScopedSettings):
    """The Fisher matrix, the ramp in fractions of the fine-tuning, and its learning rate."""

    fisher_batches: int = Field(default=400, ge=1)
    """Gradients that the Fisher matrix is estimated from, N; memory is N times the weights."""
    fisher_batch_size: int = Field(default=400, ge=1)
    """Images whose mean gradient is one of them (paper: 400 for ResNet50, 2400 for MobileNetV1)."""
    block_size: int = Field(default=2000, ge=1)
    """Weights in a block; only those of one block are taken to interact (paper: 2000 for ResNet50,
    10000 for MobileNetV1)."""
    damp: float = Field(default=1e-5, gt=0)
    """Added to the diagonal of the Fisher matrix."""
    begin: float = Field(default=0.01, ge=0, lt=1)
    """First pruning, as a fraction of the fine-tuning (paper, ResNet50: epoch 1 of 100)."""
    end: float = Field(default=0.4, gt=0, lt=1)
    """Where the ramp reaches the target, as a fraction of the fine-tuning (paper: epoch 40)."""
    updates: int = Field(default=8, ge=1)
    """Steps of the ramp; the paper's are 5 epochs long."""
    initial_sparsity: float = Field(default=0.05, ge=0, lt=1)
    """Sparsity at the start of the ramp; at 0 its first pruning is left out."""
    grid: Literal["even", "released"] = "even"
    """Space the prunings evenly up to the end of the ramp, or in steps of whole epochs from its
    beginning, which may stop short of the target, as the released code does."""
    selection: Literal["exact", "released"] = "exact"
    """Keep the exact number of weights, or one fewer and no ties as the released code does."""
    lr_factor: float = Field(default=0.005 / 0.256, gt=0, le=1000)
    """Factor on the recipe's learning rate (paper: 0.005, after dense training with 0.256)."""

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        check_order(self)
        return self

    def prunings(self, epochs: int) -> tuple[int, int, tuple[int, ...]]:
        """Return the epochs where the ramp begins and ends, and those that prune."""
        end = min(max(round(self.end * epochs), 1), epochs - 1)
        begin = min(round(self.begin * epochs), end - 1)
        if self.grid == "even":
            return begin, end, even_updates(begin, end, self.updates)
        frequency = max(1, round((end - begin) / self.updates))
        return begin, end, updates_since_begin(begin, end, frequency)

    def levels(self, epochs: int, sparsity: float) -> dict[int, float]:
        """Return the sparsity by pruning epoch, up to the final one."""
        begin, end, prunings = self.prunings(epochs)
        levels = {
            epoch: cubic_ramp(epoch, begin, end, self.initial_sparsity, sparsity)
            for epoch in prunings
        }
        return {epoch: level for epoch, level in levels.items() if level > 0}


class InverseFisher:
    """The inverse of damp I + (1/N) sum g g^T, for blocks of a layer's flattened weight.

    The Woodbury recursion subtracts one outer product a gradient from I / damp. Their factors are
    kept rather than the products: N vectors of a block's size, where the matrix would be that size
    squared. All blocks of the layer advance together; the last one is padded with zeros.
    """

    def __init__(self, like: Tensor, gradients: int, block_size: int, damp: float) -> None:
        """Start from I / damp, that is without any gradient.

        Args:
            like: gives size, dtype and device.
            gradients: N, how many will be added.
            block_size: weights in a block.
            damp: above 0.
        """
        self.size = like.numel()
        block = min(block_size, self.size)
        blocks = math.ceil(self.size / block)
        self.damp = damp
        self.added = 0
        # (blocks, N, block)
        self.factors = like.new_zeros(blocks, gradients, block)
        self.fisher_diagonal = like.new_zeros(blocks, block)

    def add(self, gradient: Tensor) -> None:
        """Add one gradient, of the layer's shape or flat."""
        count, n = self.factors.shape[1], self.added
        g = self._blocks(gradient)
        x = self._times(g)
        # Not below zero, where rounding may take what the earlier gradients cover already.
        covered = (g * x).sum(dim=1, keepdim=True).clamp_min(0)
        self.factors[:, n] = x / (count + covered).sqrt()
        self.fisher_diagonal += g * g / count
        self.added += 1

    def diagonal(self) -> Tensor:
        """Return the diagonal, flat; what rounding took from it below its least value is restored.

        An entry of the inverse's diagonal is at least the inverse of the diagonal's entry.
        """
        found = 1 / self.damp - (self.factors * self.factors).sum(dim=1)
        least = 1 / (self.damp + self.fisher_diagonal)
        return torch.maximum(found, least).reshape(-1)[: self.size]

    def times(self, vector: Tensor) -> Tensor:
        """Return the product with a vector, flat."""
        return self._times(self._blocks(vector)).reshape(-1)[: self.size]

    def _blocks(self, vector: Tensor) -> Tensor:
        blocks, _, block = self.factors.shape
        padding = blocks * block - self.size
        return nn.functional.pad(vector.reshape(-1), (0, padding)).view(blocks, block)

    def _times(self, vectors: Tensor) -> Tensor:
        factors = self.factors[:, : self.added]
        weights = torch.bmm(factors, vectors.unsqueeze(2))
        return vectors / self.damp - torch.bmm(factors.transpose(1, 2), weights).squeeze(2)


def pruning_statistic(weight: Tensor, inverse_diagonal: Tensor, mask: Tensor | None) -> Tensor:
    """Return the expected increase of the loss without each weight; 0 for pruned ones.

    (w^2 / ([F^-1]_ii + 1e-10) + 1e-10) mask (woodfisherblock.py, _get_param_stat).

    Args:
        weight: of a layer.
        inverse_diagonal: of the same number of entries, flat.
        mask: of weights not pruned so far; None: all.
    """
    statistic = weight.detach() ** 2 / (inverse_diagonal.view(weight.shape) + 1e-10) + 1e-10
    return statistic if mask is None else statistic * mask


def weight_update(weight: Tensor, inverse: InverseFisher, pruned: Tensor) -> Tensor:
    """Return the update of a layer's weights when some of them are pruned.

    The sum of the updates of each pruned weight alone, -w_q F^-1 e_q / [F^-1]_qq; therefore pruned
    weights are not exactly zero afterwards and have to be masked.

    Args:
        weight: of the layer.
        inverse: its inverse Fisher matrix.
        pruned: mask of the weights that are pruned now and were not before.
    """
    scaled = -(weight.detach() * pruned).reshape(-1) / inverse.diagonal()
    return inverse.times(scaled).view(weight.shape)


class WoodFisher(SparseMethod[Settings]):
    """Fine-tunes the dense network of the same configuration and prunes it step by step.

    Weights are ranked over all layers together; the remaining ones compensate for the pruned. The
    gradients for the Fisher matrices do not count as training FLOPs.
    """

    name = "woodfisher"
    label = "WoodFisher"
    source = (
        "Singh, Alistarh: WoodFisher: Efficient Second-Order Approximation for Neural Network "
        "Compression. NeurIPS 2020. Code: IST-DASLab/WoodFisher at d4b1a96."
    )
    deviations = (
        Deviation(
            original="keeps the weights strictly above the k-th largest: k - 1, and no ties",
            ours="keeps exactly k, ties to the lower index (selection: released restores theirs)",
            why="the requested sparsity is then the sparsity of the model, whatever the ties",
        ),
        Deviation(
            original="prunes every 5 epochs from 1 to 40, the last time in epoch 36 and short of "
            "the target",
            ours="spaces the prunings evenly and reaches the target (grid: released restores "
            "theirs)",
            why="the requested sparsity is then that of the model",
        ),
        Deviation(
            original="fine-tunes with a constant learning rate, then times 0.6 every 6 epochs",
            ours="fine-tunes with the recipe's schedule times lr_factor",
            why="it goes with every recipe and any number of epochs",
        ),
        Deviation(
            original="stores the inverse of every block",
            ours="stores the factors of the Woodbury recursion that it is a sum of, and holds its "
            "diagonal at the least value that it can have",
            why="the same numbers, but for rounding in single precision, with less memory, as "
            "there are fewer gradients than weights in a block",
        ),
    )

    @property
    def sparsity_tolerance(self) -> float:
        """Zero but for the released code's ways, which end short of the target or above it."""
        released = "released" in (self.settings.grid, self.settings.selection)
        return 0.0125 if released else 0.0

    @classmethod
    def check(cls, plan: Plan[Settings]) -> None:
        super().check(plan)
        if plan.epochs == 1:
            raise config_error("epochs", 1, "leaves WoodFisher no ramp", "2 or more")
        check_initial_sparsity(plan.settings.initial_sparsity, plan.sparsity)

    @classmethod
    def starts_from(cls, plan: Plan[Settings]) -> Start | None:
        return Start(DENSE, product="dense", which="last", epoch=0)

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.levels = self.settings.levels(self.plan.epochs, self.sparsity)
        self.last_pruning = self.settings.prunings(self.plan.epochs)[2][-1]

    def epoch_start(self, step: Step) -> None:
        if step.epoch in self.levels:
            self._prune(step.epoch, self.levels[step.epoch])

    def _prune(self, epoch: int, level: float) -> None:
        inverses = self._inverse_fishers(epoch)
        statistics = {
            name: pruning_statistic(
                weight, inverses[name].diagonal(), self.masks.get(name)
            ).contiguous()
            for name, weight in self.ranked.items()
        }
        select = strictly_above_masks if self.settings.selection == "released" else masks_at
        masks = select(statistics, level)
        with torch.no_grad():
            for name, weight in self.ranked.items():
                mask = torch.empty_like(weight, dtype=torch.bool).copy_(masks[name])
                before = self.masks.get(name)
                pruned = ~mask if before is None else before & ~mask
                weight.add_(weight_update(weight, inverses[name], pruned))
                self.masks[name] = mask
        apply_masks(self.weights, self.masks)
        self.events.add("prune", sparsity=level, nonzeros=count_nonzeros(self.masks))

    def _inverse_fishers(self, epoch: int) -> dict[str, InverseFisher]:
        """Return the inverse Fisher matrices of the layers, from gradients in evaluation mode."""
        settings = self.settings
        inverses = {
            name: InverseFisher(
                weight.detach(), settings.fisher_batches, settings.block_size, settings.damp
            )
            for name, weight in self.ranked.items()
        }
        for gradients in self.gradients(settings.fisher_batches, settings.fisher_batch_size, epoch):
            for name, inverse in inverses.items():
                mask = self.masks.get(name)
                inverse.add(gradients[name] if mask is None else gradients[name] * mask)
        return inverses

    def learning_rate(self, step: Step, rate: float) -> float:
        """Return the recipe's rate scaled down for fine-tuning."""
        return rate * float(self.settings.lr_factor)

    def product(self, step: Step) -> Product | None:
        return "sparse" if step.epoch >= self.last_pruning else None
