"""Recipe: how the dense network is trained, the same for every method of a comparison.

A learning-rate schedule is one entry of ``SCHEDULES`` and its name in ``Schedule``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from acdc.data.augmentation import Augmentation
from acdc.frozen import Frozen, added
from acdc.messages import config_error
from acdc.step import Step

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Schedule = Literal["cosine", "cosine_by_step", "step", "constant"]
OptimizerName = Literal["sgd", "adamw", "lamb"]
_Decay = Annotated[float, Field(ge=0, lt=1)]


class Recipe(Frozen):
    """How the dense network is trained; the same for every method of a comparison."""

    batch_size: int = Field(default=128, ge=2)
    """Images per step, or streams of text; the last, smaller batch of an epoch is left out."""
    segment: int = added(0, ge=0)
    """Tokens of each stream per step, for text."""
    memory: int = added(0, ge=0)
    """Tokens before a segment that the network remembers, for text."""
    evaluation_memory: int | None = added(None, ge=0)
    """The same in evaluation; null: as in training."""
    lr: float = Field(default=0.1, gt=0)
    """Base learning rate."""
    optimizer: OptimizerName = added("sgd")
    """SGD, AdamW, or LAMB as in NVIDIA's Transformer-XL: without bias correction, norms of weights
    up to 10."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's momentum."""
    betas: tuple[_Decay, _Decay] = added((0.9, 0.999))
    """Decay of the averages of gradients and of their squares (adamw, lamb)."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty on all parameters, biases and normalisation included, as in the released code;
    with adamw and lamb a decay beside the averages, which with lamb the trust ratio scales too."""
    clip_norm: float | None = added(None, gt=0)
    """Norm of all gradients together above which they are scaled down to it; null: never."""
    lr_schedule: Schedule = "cosine"
    """Learning-rate schedule, constant within an epoch unless its name ends in _by_step."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of the training over which the learning rate rises linearly (cosine schedules)."""
    final_lr: float = added(0.0, ge=0)
    """Learning rate that the cosine falls to (cosine schedules)."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Fractions of the epochs at which the learning rate is multiplied by gamma (step schedule)."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """Factor at each milestone."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of the cross entropy."""
    augmentation: Augmentation = "none"
    """Random shifts by up to an eighth of the image, alone or with horizontal flips; or, of images
    in files, random crops of 8 to 100 % of the area with horizontal flips."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lr_schedule == "step" and not self.milestones:
            raise config_error(
                "recipe.milestones",
                [],
                "lr_schedule=step needs milestones",
                "fractions of the epochs, such as [0.5, 0.75]",
            )
        if any(first >= second for first, second in pairwise(self.milestones)):
            raise config_error(
                "recipe.milestones", self.milestones, "not in order", "increasing fractions"
            )
        # One training has one fingerprint.
        stepped, cosine = self.lr_schedule == "step", self.lr_schedule.startswith("cosine")
        sgd = self.optimizer == "sgd"
        effects = {
            **dict.fromkeys(("milestones", "gamma"), ("lr_schedule", stepped)),
            **dict.fromkeys(("warmup", "final_lr"), ("lr_schedule", cosine)),
            **dict.fromkeys(("momentum", "nesterov"), ("optimizer", sgd)),
            "betas": ("optimizer", not sgd),
        }
        for key, (choice, used) in effects.items():
            value, default = getattr(self, key), type(self).model_fields[key].default
            if not used and value != default:
                problem = f"no effect with {choice}={getattr(self, choice)}"
                raise config_error(f"recipe.{key}", value, problem, f"{default}, the default")
        if self.final_lr >= self.lr:
            problem, allowed = "not below the base learning rate", f"below recipe.lr={self.lr}"
            raise config_error("recipe.final_lr", self.final_lr, problem, allowed)
        if self.nesterov and self.momentum == 0:
            raise config_error(
                "recipe.nesterov", True, "needs momentum", "false, or recipe.momentum > 0"
            )
        return self

    def learning_rate(self, step: Step, epochs: int) -> float:
        """Return the learning rate of a step in a training of ``epochs`` epochs."""
        return self.lr * SCHEDULES[self.lr_schedule](self, step, epochs)


def warmup_cosine(position: int, length: int, warmup: int, final: float = 0.0) -> float:
    """Return the factor on the base learning rate at ``position`` of ``length`` epochs or steps.

    Linear warm-up reaches 1 at ``warmup - 1`` (with 5 epochs: 0.2, 0.4, ... 1); a cosine then falls
    towards ``final`` at ``length``. With epochs and 0, this is the schedule of the released AC/DC
    ImageNet configurations (optimization/lr_schedulers.py).
    """
    if position < warmup:
        return (position + 1) / warmup
    cosine = math.cos(math.pi * (position - warmup) / (length - warmup))
    return final + (1.0 - final) * 0.5 * (1.0 + cosine)


def _cosine(recipe: Recipe, step: Step, epochs: int) -> float:
    warmup = round(recipe.warmup * epochs)
    return warmup_cosine(step.epoch, epochs, warmup, recipe.final_lr / recipe.lr)


def _cosine_by_step(recipe: Recipe, step: Step, epochs: int) -> float:
    steps = epochs * step.batches_per_epoch
    warmup = round(recipe.warmup * steps)
    return warmup_cosine(step.iteration, steps, warmup, recipe.final_lr / recipe.lr)


def _step_decay(recipe: Recipe, step: Step, epochs: int) -> float:
    passed = sum(step.epoch >= round(milestone * epochs) for milestone in recipe.milestones)
    return recipe.gamma**passed


def _constant(recipe: Recipe, step: Step, epochs: int) -> float:
    return 1.0


SCHEDULES: dict[Schedule, Callable[[Recipe, Step, int], float]] = {
    "cosine": _cosine,
    "cosine_by_step": _cosine_by_step,
    "step": _step_decay,
    "constant": _constant,
}
"""The factor on the base learning rate, a function of the recipe, the step and the epochs."""
