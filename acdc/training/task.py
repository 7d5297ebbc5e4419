"""Tasks: what a batch, a loss and a score are, so that the loop and the methods need not know.

A new kind is a class beside these, an entry in ``acdc.training.tasks``, a ``DatasetSpec``, and
networks.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from acdc.config.recipe import Recipe
from acdc.data.loader import Loader
from acdc.data.spec import DatasetSpec
from acdc.distributed import Ranks
from acdc.sparsity.flops import LayerCost
from acdc.training.evaluation import Score


@dataclass(frozen=True)
class Forward:
    """What the forward pass over this rank's share of a batch gives."""

    loss: Tensor
    """The mean over the share, which is differentiated."""
    correct: Tensor
    """How many predictions are right, as int64; 0 where they are not counted."""
    memory: Tensor | None = None
    """What the task carries over to the next batch of the epoch."""


class Task(abc.ABC):
    """What a batch, a loss and a score are.

    Args:
        spec: of the data set.
        recipe: of the run.
        loader: of this rank.
        ranks: that share each batch.
    """

    def __init__(self, spec: DatasetSpec, recipe: Recipe, loader: Loader, ranks: Ranks) -> None:
        self.spec = spec
        self.recipe = recipe
        self.loader = loader
        self.ranks = ranks

    @staticmethod
    @abc.abstractmethod
    def costs(spec: Any, recipe: Recipe, model: nn.Module) -> tuple[LayerCost, ...]:
        """Return the dense cost of one sample, layer by layer."""

    @staticmethod
    def carried_bytes(recipe: Recipe, model: nn.Module) -> int:
        """Return the bytes of ``state_dict`` within an epoch at most."""
        return 0

    @abc.abstractmethod
    def forward(self, network: Callable[..., Any], inputs: Tensor, targets: Tensor) -> Forward:
        """Return the loss of a batch in training."""

    @abc.abstractmethod
    def plain_loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the losses of a batch by itself, without regularisation of labels."""

    @abc.abstractmethod
    def score(self, model: nn.Module, split: Literal["validation", "test"]) -> Score:
        """Return the score of a model over a split, the same on all ranks."""

    def record(self, model: nn.Module, correct: int, samples: int) -> dict[str, float]:
        """Return what the journal's record of an epoch has beside loss and score.

        Args:
            model: as it is at the end of the epoch.
            correct: right predictions in training, over all ranks.
            samples: that were trained on.
        """
        return {}

    def epoch_start(self) -> None:  # noqa: B027
        """Forget what earlier batches left behind."""

    def step_end(self, forward: Forward) -> None:  # noqa: B027
        """Take what a batch leaves behind, once its gradients are known to be finite."""

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming within an epoch needs, of all ranks; all of them call it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take this rank's share of what ``state_dict`` returned."""
