"""Plan: what a method knows of the run that it is part of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from acdc import seeds
from acdc.methods.settings import MethodSettings
from acdc.sparsity.layers import Layers

SettingsT_co = TypeVar("SettingsT_co", bound=MethodSettings, covariant=True)


@dataclass(frozen=True)
class Plan(Generic[SettingsT_co]):
    """The network's layers, the goal, the method's settings and the length of a run."""

    layers: Layers
    """Shapes and kinds of the convolutional and linear layers, in module order."""
    sparsity: float
    """Fraction of the weights that are zero at the end, over the layers that are not exempt."""
    settings: SettingsT_co
    epochs: int
    batches_per_epoch: int
    seed: int

    @property
    def iterations(self) -> int:
        """Batches in the whole run."""
        return self.epochs * self.batches_per_epoch

    def steps(self, fraction: float) -> int:
        """Return an interval in steps, at least one, given as a fraction of training."""
        return max(1, round(fraction * self.iterations))

    def generator(self, *position: int) -> torch.Generator:
        """Return the CPU generator of the masks' randomness at a position, such as an iteration."""
        return seeds.generator(self.seed, "masks", *position)
