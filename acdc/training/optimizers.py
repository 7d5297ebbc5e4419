"""The optimizer of every run: SGD with momentum."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from acdc.config.recipe import Recipe
from acdc.sparsity.layers import prunable_weights


class EagerSGD(torch.optim.SGD):
    """torch's SGD without the wrappers that import torch's compiler, about two seconds a process.

    The arithmetic is torch's own; only the wrappers that disable the compiler are removed, since
    the optimizer is not compiled.
    """

    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return SGD with two groups of parameters, ``prunable`` and ``other``."""
    prunable = {id(weight) for weight in prunable_weights(model).values()}
    groups = [
        {"name": "prunable", "params": [p for p in model.parameters() if id(p) in prunable]},
        {"name": "other", "params": [p for p in model.parameters() if id(p) not in prunable]},
    ]
    return EagerSGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        foreach=True,
    )
