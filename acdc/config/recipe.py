"""Recipe: how the dense network would be trained, the same for every method of a comparison."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from acdc.data.augmentation import Augmentation
from acdc.errors import ConfigError


class Frozen(BaseModel):
    """A validated value: unknown keys are refused, and nothing changes after construction."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class Recipe(Frozen):
    """How the dense network would be trained; the same for every method of a comparison."""

    batch_size: int = Field(default=128, ge=2)
    """Images per step; the last, smaller batch of an epoch is left out."""
    lr: float = Field(default=0.1, gt=0)
    """Base learning rate of SGD."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty on all parameters, biases and normalisation included, as in the released code."""
    lr_schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate changes from epoch to epoch."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of the epochs over which the learning rate rises linearly (cosine schedule)."""
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
    def _nothing_without_effect(self) -> Self:
        if self.lr_schedule == "step" and not self.milestones:
            raise ConfigError(
                "recipe.milestones: none are given for the step schedule; fractions of the epochs "
                "are accepted"
            )
        if self.lr_schedule != "step" and self.milestones:
            raise ConfigError(
                f"recipe.milestones: they mean nothing to the {self.lr_schedule} schedule; they "
                "are accepted with recipe.lr_schedule step"
            )
        return self

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ConfigError(
                "recipe.nesterov: true goes only with a recipe.momentum above 0; false is accepted"
            )
        return self
