"""The optimizer of every run, and the clipping of the gradients that it receives."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from acdc.config.recipe import Recipe
from acdc.sparsity.layers import prunable_weights


class _Eager(Optimizer):
    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


@cache
def eager(kind: type[Optimizer]) -> Any:
    """Return an optimizer's class without the wrappers that import torch's compiler.

    The import takes about two seconds a process. The arithmetic is the class's own; only wrappers
    that disable the compiler are removed, since the optimizer is not compiled.
    """
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(f"Eager{kind.__name__}", (kind, _Eager), {"step": step})


def build_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Return the recipe's optimizer with two groups of parameters, ``prunable`` and ``other``."""
    prunable = {id(weight) for weight in prunable_weights(model).values()}
    groups = [
        {"name": "prunable", "params": [p for p in model.parameters() if id(p) in prunable]},
        {"name": "other", "params": [p for p in model.parameters() if id(p) not in prunable]},
    ]
    keys: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "foreach": True}
    kind: Any
    if recipe.optimizer == "sgd":
        kind = torch.optim.SGD
        keys |= {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
    elif recipe.optimizer == "adamw":
        kind = torch.optim.AdamW
        keys |= {"betas": recipe.betas}
    else:
        # Imported where it is used: the import takes nearly as long as torch's.
        from pytorch_optimizer.optimizer.lamb import Lamb

        kind = Lamb
        # With these it is NVIDIA's: the decay is part of the update that the trust ratio scales,
        # and the learning rate is not divided by 1 - beta1^t, which is 0.1 in the first step.
        keys |= {"betas": recipe.betas, "weight_decouple": False, "adam_debias": True}
    optimizer: Optimizer = eager(kind)(groups, **keys)
    return optimizer


def clip_gradients(optimizer: Optimizer, norm: float | None) -> None:
    """Scale all gradients of an optimizer down together, to a Euclidean norm of at most ``norm``.

    It comes right before the optimizer's step and counts what that step receives: the mean over
    ranks, unscaled in fp16, without what a method has masked and with what it has added.
    """
    if norm is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, norm, foreach=True)
