"""Language modelling: words are predicted from those before them, with a memory of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from acdc.config.recipe import Recipe
from acdc.data.spec import TextSpec
from acdc.data.text import TextLoader
from acdc.sparsity.flops import LayerCost
from acdc.sparsity.layers import prunable_layers
from acdc.training.evaluation import Score
from acdc.training.task import Forward, Task


class TextTask(Task):
    """Each word is predicted from those before it; the loss is the mean of -log p of a word.

    The memory starts empty in each epoch and in each split.
    """

    loader: TextLoader

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.memory: Tensor | None = None

    @staticmethod
    def costs(spec: TextSpec, recipe: Recipe, model: nn.Module) -> tuple[LayerCost, ...]:
        """Return the dense cost of one token, layer by layer.

        Words are assumed to occur by Zipf's law, so that the cost is known without the text. Only
        the clusters of rarer words depend on it: 0.44 % of the FLOPs of the large network, and none
        of those with one cluster.
        """
        frequencies = [1 / rank for rank in range(1, spec.vocabulary + 1)]
        flops = model.flops_per_token(  # type: ignore[operator]
            frequencies, recipe.segment, recipe.memory, recipe.batch_size
        )
        layers = prunable_layers(model)
        weights = {name: layers[name].size if name in layers else 0 for name in flops}
        return tuple(LayerCost(name, weights[name], round(flops[name])) for name in flops)

    @staticmethod
    def carried_bytes(recipe: Recipe, model: nn.Module) -> int:
        inputs = sum(layer.q.in_features for layer in model.layers)  # type: ignore[union-attr]
        return 4 * recipe.batch_size * recipe.memory * inputs

    def forward(self, network: Callable[..., Any], inputs: Tensor, targets: Tensor) -> Forward:
        nll, memory = network(inputs, targets, self.memory, memory_length=self.recipe.memory)
        return Forward(nll.mean(), torch.zeros((), dtype=torch.int64, device=nll.device), memory)

    def plain_loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = model(inputs, targets)[0].sum()
        return loss

    @torch.inference_mode()
    def score(self, model: nn.Module, split: Literal["validation", "test"]) -> Score:
        model.eval()
        length = self.recipe.evaluation_memory
        length = self.recipe.memory if length is None else length
        sums = torch.zeros(2, dtype=torch.float64, device=next(model.parameters()).device)
        memory: Tensor | None = None
        for inputs, targets in self.loader.evaluation(split):
            if memory is not None:  # the last batch can have the first streams only
                memory = memory[:, : len(inputs)]
            nll, memory = model(inputs, targets, memory, memory_length=length)
            sums += torch.stack([nll.double().sum(), sums.new_tensor(targets.numel())])
        self.ranks.sum([sums])
        return Score(None, float(sums[0] / sums[1]))

    def epoch_start(self) -> None:
        self.memory = None

    def step_end(self, forward: Forward) -> None:
        self.memory = forward.memory

    def state_dict(self) -> dict[str, Any]:
        if self.memory is None:
            return {}
        layers, mine, length, width = self.memory.shape
        whole = self.memory.new_zeros(layers, mine * self.ranks.count, length, width)
        whole[:, self.ranks.slice(whole.shape[1])] = self.memory
        self.ranks.sum([whole])
        return {"memory": whole}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        whole = state.get("memory")
        if whole is not None:
            self.memory = whole[:, self.ranks.slice(whole.shape[1])]
