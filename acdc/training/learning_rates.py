"""Learning-rate schedules: pure functions of the position in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from acdc.config.recipe import Recipe


def warmup_cosine(epoch: int, epochs: int, warmup: int) -> float:
    """Return the factor on the base learning rate in ``epoch``, constant within the epoch.

    Linear warm-up ends at 1 in epoch ``warmup - 1`` (with 5 epochs: 0.2, 0.4, ... 1); then a cosine
    reaches towards 0 at ``epochs``. This is the schedule of the released AC/DC ImageNet
    configurations (optimization/lr_schedulers.py).
    """
    if epoch < warmup:
        return (epoch + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def step_decay(epoch: int, milestones: Sequence[int], gamma: float) -> float:
    """Return the factor on the base learning rate after one decay by ``gamma`` per milestone."""
    return gamma ** sum(epoch >= milestone for milestone in milestones)


def learning_rate(recipe: Recipe, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch."""
    if recipe.lr_schedule == "cosine":
        factor = warmup_cosine(epoch, epochs, round(recipe.warmup * epochs))
    elif recipe.lr_schedule == "step":
        milestones = [round(m * epochs) for m in recipe.milestones]
        factor = step_decay(epoch, milestones, recipe.gamma)
    else:
        factor = 1.0
    return recipe.lr * factor
