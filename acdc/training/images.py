"""Classification of images: cross entropy, and the fraction that is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from acdc.config.recipe import Recipe
from acdc.data.spec import ImageSpec
from acdc.sparsity.flops import LayerCost, layer_costs
from acdc.training.evaluation import Score, evaluate, evaluate_relabelled
from acdc.training.task import Forward, Task


class ImageTask(Task):
    """Images are classified; the loss is cross entropy."""

    @staticmethod
    def costs(spec: ImageSpec, recipe: Recipe, model: nn.Module) -> tuple[LayerCost, ...]:
        return layer_costs(model, spec.input_shape)

    def forward(self, network: Callable[..., Any], inputs: Tensor, targets: Tensor) -> Forward:
        outputs = network(inputs)
        loss = nn.functional.cross_entropy(
            outputs, targets, label_smoothing=self.recipe.label_smoothing
        )
        return Forward(loss, (outputs.detach().argmax(dim=1) == targets).sum())

    def plain_loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(inputs), targets, reduction="sum")

    def score(self, model: nn.Module, split: Literal["validation", "test"]) -> Score:
        return evaluate(model, self.loader, split, self.ranks)

    def record(self, model: nn.Module, correct: int, samples: int) -> dict[str, float]:
        found = {"train_accuracy": correct / samples}
        if self.loader.relabelled is not None:
            found |= evaluate_relabelled(model, self.loader, self.loader.relabelled, self.ranks)
        return found
